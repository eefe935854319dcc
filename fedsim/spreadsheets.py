"""Texts that a spreadsheet would compute instead of showing."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20].|[\t\r]")  # the last four are wide forms of = + - @


def is_formula(text: str) -> bool:
    """Whether a spreadsheet takes the text of a cell for a formula; a number is none."""
    if not _FORMULA.match(text):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
