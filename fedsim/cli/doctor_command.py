"""``fedsim doctor``, a command of `fedsim.cli.main` without arguments."""

from __future__ import annotations

from fedsim.cli.exit_codes import exit_codes


def doctor() -> None:
    """Show versions, extras, devices, threads, caches and who else uses the cores; mark what is wrong, and its cure."""
    with exit_codes():
        from fedsim.cli import checkup

        checkup.show()
