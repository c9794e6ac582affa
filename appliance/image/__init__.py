"""What the image of a board does beside serving, as root, from units of its own: settings, console, health, updates."""
