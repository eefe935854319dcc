"""Asynchrony: a server that does not wait for rounds, and how it weighs stale updates."""
