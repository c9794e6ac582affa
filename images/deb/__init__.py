"""The Debian package: the appliance, its locked wheels, its units."""
