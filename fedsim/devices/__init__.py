"""Unequal devices and the virtual clock: how fast each client is, and which clients arrive in time."""
