"""How much memory there is, so that what cannot fit is refused in one line before the system ends the process."""

from __future__ import annotations

import os

from fedsim.errors import UserError


def installed_bytes() -> int:
    """Return the bytes of memory that the machine has; a huge number where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63


def refuse_larger(needed: int, key: str, value: object, what: str, advice: str) -> None:
    """Raise `UserError` if something takes more memory than the machine has.

    Args:
        needed: bytes.
        key: the full key that asks for them.
        value: its value.
        what: what takes them, in the plural.
        advice: what to do about it.
    """
    there = installed_bytes()
    if needed > there:
        raise UserError(
            f"{key}={value}: {what} would take {needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f} "
            f"GiB; {advice}"
        )
