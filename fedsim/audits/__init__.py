"""What a curious server learns from what it sees anyway."""
