"""The builders of packages and images; they run on a Debian workstation, never on a device."""
