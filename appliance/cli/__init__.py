"""The verbs of the command `lantern`."""
