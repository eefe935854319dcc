"""What every part of a round has in common: its contract, its state and the types that go round."""
