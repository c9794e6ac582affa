"""What turns the appliance into packages and images; runs on a Debian workstation, never on a device."""
