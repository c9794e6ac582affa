"""The running process: composition, start and stop, safe mode, the watchdog, the log."""
