"""Text from files that somebody else may have written, made fit for the place where it is shown.

A name is shown as it is spelt and does nothing more: it moves no cursor, breaks no line, closes no comment, and is no
markup, command, link or formula.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from fedsim.errors import printable
from fedsim.spreadsheets import is_formula

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.ft2font import FT2Font

# Entities rather than backslashes where some dialects of Markdown, or what fills in templates, disregard a backslash.
_MARKDOWN = {
    **{sign: rf"\{sign}" for sign in "\\*_[]#"},
    **{"&": "&amp;", "<": "&lt;", ">": "&gt;"},
    **{sign: f"&#{ord(sign)};" for sign in "`|~${}@"},
}
_LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "−": r"$-$",
    "[": "{[}",  # at the beginning of a row, these two would belong to the \\ before
    "*": "{*}",
}


def one_line(text: str) -> str:
    """The text for a terminal, in one line: what it might obey is escaped, and so are line breaks."""
    return printable(text).replace("\n", r"\n")


def markdown(text: str) -> str:
    """The text within a paragraph or a table's cell of Markdown, in one line, without links and HTML."""
    text = "".join(_MARKDOWN.get(sign, sign) for sign in one_line(text).strip())
    return text.replace("://", ":&#47;/").replace("www.", "www&#46;")  # else a bare address is a link


def latex(text: str) -> str:
    """The text in LaTeX, in one line, without commands."""
    text = "".join(_LATEX.get(sign, sign) for sign in one_line(text))
    text = text.replace("$>$=", r"$\geq$").replace("$<$=", r"$\leq$")
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)  # a minus sign, not a hyphen


def cell(text: str) -> str:
    """The text in a CSV for people, in one line: one that a spreadsheet would compute has an apostrophe in front."""
    text = one_line(text)
    return f"'{text}" if is_formula(text) else text


def csv(table: pd.DataFrame) -> str:
    """A table as a CSV for people; numbers are as they are, names of columns and other text as `cell` has them."""
    import pandas as pd

    shown = table.copy()
    for at, values in enumerate(shown.dtypes):
        if not pd.api.types.is_numeric_dtype(values):
            own = [cell(value) if isinstance(value, str) else value for value in table.iloc[:, at]]
            shown.isetitem(at, np.array(own, object))
    shown.columns = pd.Index([cell(str(name)) for name in table.columns])
    return shown.to_csv(index=False, lineterminator="\n")


def drawn_name(name: str, most: int = 60) -> str:
    """A name in a picture, in one line; of one of more than `most` characters, the middle is left out."""
    return _no_mathematics(_middle_left_out(_with_glyphs(one_line(name)), most))


def drawn_names(names: Sequence[str], most: int) -> list[str]:
    """Names in a picture, shortened in the middle to `most` characters; where two would look alike, they differ still.

    Those are shown from a little before the first character in which they differ.
    """
    plain = [_with_glyphs(one_line(name)) for name in names]
    short = [_middle_left_out(name, most) for name in plain]
    for alike in [one for one in dict.fromkeys(short) if short.count(one) > 1]:
        places = [at for at, one in enumerate(short) if one == alike and plain[at] != alike]
        same = _common_start([plain[at] for at in places])
        head = max(1, min(most // 3, same - 4))
        for at in places:
            rest = plain[at][max(same - 3, head) :]
            short[at] = f"{plain[at][:head]}…{_middle_left_out(rest, most - head - 1)}"
    for at, one in enumerate(short):
        if one in short[:at] and plain[at] not in plain[:at]:  # these differ in several places, all left out
            short[at] = f"{one} [{at + 1}]"
    return list(map(_no_mathematics, short))


def _common_start(names: Sequence[str]) -> int:
    """The number of characters that are the same at the beginning of all of them."""
    pairs = zip(*names, strict=False)
    return next((at for at, signs in enumerate(pairs) if len(set(signs)) > 1), min(map(len, names), default=0))


def _middle_left_out(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"


def drawn(text: str) -> str:
    """The text in a picture: not read as mathematics, and with codes for characters that the font lacks; lines stay."""
    return _no_mathematics(_with_glyphs(printable(text)))


def _no_mathematics(text: str) -> str:
    return text.replace("$", r"\$")


def _with_glyphs(text: str) -> str:
    """The text with codes for characters that the font lacks."""
    if text.isascii():
        return text
    fonts = _fonts()
    there = {c for c in set(text) if c.isascii() or any(font.get_char_index(ord(c)) for font in fonts)}
    return "".join(c if c in there else c.encode("unicode_escape").decode() for c in text)


def _fonts() -> list[FT2Font]:
    """The fonts in which matplotlib looks for a character, one after the other."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    found = []
    for family in FontProperties().get_family():
        with suppress(ValueError):  # not installed
            found.append(get_font(findfont(FontProperties(family=[family]), fallback_to_default=False)))
    return found
