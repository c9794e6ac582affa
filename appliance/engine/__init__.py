"""Tokens in, tokens out: no JSON, no HTTP, no text."""
