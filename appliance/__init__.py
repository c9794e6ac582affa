"""Lantern on the device, and the client side of it."""

import os

__version__ = "0.2.0"

# onnxruntime's wheels for Linux report to their maker since 1.29, unless this is set before they are loaded: what they
# run on, and names and hashes of the models. Nothing leaves the house.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Its attention over several tokens is twice as fast here without the tiles that save memory; chunks of a prompt are
# short enough to do without them (see models/memory.py).
os.environ["ORT_GQA_DISABLE_FLASH_ATTENTION"] = "1"
