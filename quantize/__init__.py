"""What runs on the workstation: published checkpoints become model bundles."""
