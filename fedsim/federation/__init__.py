"""One federated run: its settings, which of them go together, its preparation, and its rounds."""
