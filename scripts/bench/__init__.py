"""The parts of `benchmark.py` and `growth.py`."""
