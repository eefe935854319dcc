"""Which clients take part in a round: one rule per file."""
