"""``python -m fedsim`` is the same command as ``fedsim``."""

from fedsim.cli import main

main()
