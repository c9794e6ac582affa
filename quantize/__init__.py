"""The workstation's half: published checkpoints become model bundles."""

import os

# As in appliance/__init__.py: onnxruntime reports nothing to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
