"""One federated run: its settings, what may go with what, its preparation, and its rounds."""
