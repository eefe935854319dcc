"""Several processes that share one simulation."""
