"""What clients and server send each other, and how many bytes it takes: one encoding per file."""
