"""The system image's root side: boot settings, console, health confirmation, and updates."""
