"""From what the user typed to a checked experiment. Only this room knows Hydra."""
