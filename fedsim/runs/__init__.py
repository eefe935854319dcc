"""Recorded runs: from a checked experiment to the files that it writes, and back."""
