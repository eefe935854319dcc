"""What a run leaves behind: CSVs, console, checkpoints, summary."""
