"""Differential privacy of clients, with an accountant for what it spends, and secure aggregation."""
