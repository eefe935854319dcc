"""``python -m fedsim`` is the same command as ``fedsim``."""

from fedsim.cli.main import main

if __name__ == "__main__":
    main()
