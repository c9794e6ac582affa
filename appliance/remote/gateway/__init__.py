"""A gateway before several devices: LiteLLM's proxy, fed by discovery."""
