"""The memory between requests: stored responses, and the key that seals reasoning."""
