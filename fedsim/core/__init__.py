"""What every part of a round has in common: its interface, its state and the types passed between parts."""
