"""``fedsim compare --plot FILE``: learning curves with bands over seeds, or a heat map of two settings."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.caches import find_place_for_matplotlib
from fedsim.compare.curves import X_AXES, curves
from fedsim.compare.groups import ABSENT, Group
from fedsim.compare.heat_map import heat_map
from fedsim.compare.table import Comparison
from fedsim.errors import UserError
from fedsim.extras import require

__all__ = ("FORMATS", "X_AXES", "check", "cut_short", "draw", "is_grid", "keys_of", "style")

FORMATS = ("png", "svg", "pdf")
# No dates and no random ids in a file: the same runs give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def check(file: Path) -> None:
    """Raise `UserError` for a file name that is not that of a picture."""
    if file.suffix[1:].lower() not in FORMATS:
        raise UserError(f"--plot {file}: must end in .png, .svg or .pdf")


def draw(comparison: Comparison, kind: str, x: str | None = None, heatmap: bool | None = None) -> bytes:
    """Return a picture of the kind ``png``, ``svg`` or ``pdf``.

    Args:
        comparison: what to draw.
        kind: one of `FORMATS`.
        x: what the curves are drawn against; None is ``round``.
        heatmap: True: a heat map of the two keys that differ, whatever they are. None: a heat map if exactly two keys
            differ, both are numbers with several values, and `x` is None.

    Raises:
        UserError: if these runs do not have what the picture needs, or matplotlib is not installed.
    """
    require("--plot", "plot", "matplotlib")
    find_place_for_matplotlib()
    from matplotlib.figure import Figure

    keys = keys_of(comparison)
    if heatmap and len(keys) != 2:
        found = f"{len(keys)} ({', '.join(keys)})" if keys else "none"
        raise UserError(f"--heatmap: needs runs that differ in exactly two settings besides the seed, not in {found}")
    if heatmap is None:
        heatmap = x is None and is_grid(comparison)
    content = io.BytesIO()
    with style(), np.errstate(all="ignore"):  # of runs that diverged, some means are infinite
        figure = Figure(layout="constrained")
        if heatmap:
            heat_map(figure, comparison, keys)
        else:
            curves(figure, comparison, keys, x or "round")
        figure.savefig(content, format=kind, dpi=300, metadata=_METADATA[kind])
    return content.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """How pictures are drawn: always the same bytes, in fonts that a PDF can hold.

    There is no TeX, whatever matplotlibrc says, because names are not written for it; and no warning of long names that
    leave the axes little room.
    """
    from matplotlib import rc_context

    fonts: dict[Any, Any] = {"font.size": 8, "pdf.fonttype": 42, "svg.fonttype": "path", "text.usetex": False}
    with rc_context(fonts | {"svg.hashsalt": "fedsim"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def keys_of(comparison: Comparison) -> list[str]:
    """The settings in which the groups differ."""
    return list(dict.fromkeys(key for group in comparison.groups for key in group.keys))


def is_grid(comparison: Comparison) -> bool:
    """Whether exactly two settings differ, both numbers with several values, so that a heat map shows them all."""
    groups, keys = comparison.groups, keys_of(comparison)
    values = [[group.keys.get(key, ABSENT) for group in groups] for key in keys]
    return len(keys) == 2 and all(
        len(set(column)) > 1 and all(isinstance(value, (int, float)) for value in column) for column in values
    )


def cut_short(groups: Sequence[Group]) -> list[str]:
    """Return a sentence for every group whose curve ends before some of its runs do, with the round."""
    said = []
    for group in groups:
        ends = [run.rounds or 0 for run in group.runs]
        if min(ends) < max(ends):
            said.append(
                f"--plot: the curve of {group.label} ends with round {min(ends)}, the last that all its seeds have "
                f"(of {max(ends)})"
            )
    return said
