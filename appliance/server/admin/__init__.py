"""The administration of a device: everything below /admin."""
