"""What runs on the device, and the client side of it."""

__version__ = "0.1.0"
