"""What malicious clients do to their data or their deltas, alone or together: one attack per file."""
