"""Combine rules, which turn deltas ``[C, P]`` and their report into one delta ``[P]``: one rule per file."""
