"""Runs read back and set side by side: `reading`, `groups`, `statistics`, `table`, `output`, `plot`."""
