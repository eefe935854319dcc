"""Encodings of what clients and server send each other, and the bytes they take: one encoding per file."""
