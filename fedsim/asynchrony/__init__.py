"""Asynchrony: a server that does not wait for rounds, and what it makes of updates that come late."""
