"""Access control: API keys, the claim of a new device, and the file that tells local commands of this server."""
