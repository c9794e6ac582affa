"""HTTP without the API: listeners, connections, limits, request bodies, errors, server-sent events, metrics."""
