"""Data sources: one file and one frozen dataclass each, with ``load(seed) -> Dataset``."""
