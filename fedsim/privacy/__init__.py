"""Differential privacy of clients: mechanisms, and the accountant that says what they spend."""
