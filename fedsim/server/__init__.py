"""Server optimizers, and how their learning rates change over the rounds."""
