"""What runs on the workstation: published checkpoints become model bundles."""

import os

# As in appliance/__init__.py: onnxruntime reports to nobody what is built here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
