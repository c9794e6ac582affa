"""The board: service manager, memory, temperature."""
