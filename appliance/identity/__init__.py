"""Device identity: the device id and its host name, the TLS certificate and its pin."""
