"""fedsim from Python: `fedsim.run`, `fedsim.sweep`, `fedsim.load`. The commands, without a shell."""
