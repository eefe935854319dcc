"""Unequal devices and the virtual clock: who is how fast, and who arrives in time."""
