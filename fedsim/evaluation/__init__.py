"""Metrics of models on the clients' test samples."""
