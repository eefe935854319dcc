"""How deltas ``[C, P]`` and their report become one delta ``[P]``: one rule per file."""
