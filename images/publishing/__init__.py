"""A release: everything that people download of one version, built twice, listed, summed and signed."""
