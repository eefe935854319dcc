"""Federations in layers and without a server: who averages with whom."""
