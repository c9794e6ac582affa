"""The image for Raspberry Pi 3, 4, 5, Compute Module 4 and Zero 2 W."""
