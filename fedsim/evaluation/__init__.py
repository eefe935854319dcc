"""Metrics of models on the clients' samples."""
