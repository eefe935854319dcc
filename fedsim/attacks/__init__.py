"""What malicious clients do, to their data, to their own deltas or together: one attack per file."""
