"""Personal models, one per client: one method per file."""
