"""Partitions: who holds which sample. One frozen dataclass each, with ``assign(...) -> Assignment``."""
