"""What every federated result is read against: pooled training, and each client alone."""
