"""The DNS-SD record and its readers."""
