"""Recorded runs: from a checked experiment to the files that it leaves, and back."""
