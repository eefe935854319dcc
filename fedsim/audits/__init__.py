"""What a curious server can find out from what it sees anyway: one audit per file."""
