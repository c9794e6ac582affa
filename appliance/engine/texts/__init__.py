"""Encoders: texts to vectors and scores, several requests in a batch."""
