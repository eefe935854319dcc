"""Models of the clients' own."""
