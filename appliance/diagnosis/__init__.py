"""Diagnosis of a device: pure checks over the board, the settings and the folders, each with a remedy."""
