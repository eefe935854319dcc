"""Baselines to compare federated results with: training on pooled data, and each client alone."""
