"""A heat map of two settings: a cell per pair, coloured by the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.compare.escape import drawn_name, drawn_names
from fedsim.compare.output import number
from fedsim.compare.table import Comparison
from fedsim.compare.words import LARGEST, metric_label, natural, shown_value
from fedsim.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def heat_map(figure: Figure, comparison: Comparison, keys: Sequence[str]) -> None:
    """Draw a cell per pair of settings, coloured by the column that is reported, its number written in."""
    across, down = sorted(keys, key=lambda key: -len({group.keys[key] for group in comparison.groups}))
    columns = sorted({group.keys[across] for group in comparison.groups}, key=natural)
    rows = sorted({group.keys[down] for group in comparison.groups}, key=natural)
    if all(isinstance(value, (int, float)) for value in rows):
        rows.reverse()  # numbers grow upwards, words are read downwards
    values = np.full((len(rows), len(columns)), math.nan)
    marks: dict[tuple[int, int], str] = {}
    for group, found in zip(comparison.groups, comparison.summaries, strict=True):
        place, one = (rows.index(group.keys[down]), columns.index(group.keys[across])), found[comparison.reported]
        values[place] = one.mean if abs(one.mean) < LARGEST else math.nan
        if one.n < one.total:
            marks[place] = f"{one.failed} of {one.total}\nfailed" if one.failed else f"{one.n} of {one.total}"
    if not np.isfinite(values).any():
        raise UserError(f"--heatmap: nothing was measured of {comparison.reported}")
    figure.set_size_inches(min(max(4.2, 1.9 + 0.62 * len(columns)), 10), min(max(2.4, 1.1 + 0.42 * len(rows)), 8))
    axes = figure.subplots()
    _cells(axes, values, marks)
    axes.set_xticks(range(len(columns)), drawn_names([shown_value(value) for value in columns], 30))
    axes.set_yticks(range(len(rows)), drawn_names([shown_value(value) for value in rows], 40))
    if max(len(shown_value(value)) for value in columns) > 8:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlabel(drawn_name(across))
    axes.set_ylabel(drawn_name(down))
    axes.tick_params(length=0)
    bar = figure.colorbar(axes.images[0], ax=axes, fraction=0.05, pad=0.02)
    seeds = {len(group.runs) for group in comparison.groups}
    over = f"\nmean over {min(seeds)}{f' to {max(seeds)}' if len(seeds) > 1 else ''} seeds" if max(seeds) > 1 else ""
    first, _, rest = comparison.reported.partition(" ")
    known = first in ("final", "chosen", "best")
    label = f"{first} {metric_label(rest)}" if known else drawn_name(comparison.reported.replace("_", " "))
    bar.set_label(label + over)
    bar.outline.set_linewidth(0.5)


def _cells(axes: Axes, values: NDArray[np.float64], marks: Mapping[tuple[int, int], str]) -> None:
    """A coloured cell per value with its number in a colour that can be read on it; missing ones are hatched.

    Args:
        axes: where to draw.
        values: ``[rows, columns]``.
        marks: row and column to what is said of a cell for which some seeds have no value.
    """
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scale = Normalize(low, high if high > low else low + 1)
    image = axes.imshow(values, aspect="auto", cmap="cividis", norm=scale, interpolation="nearest")
    size = 8 if values.shape[1] <= 10 else 6
    for (row, column), value in np.ndenumerate(values):
        if math.isnan(value):
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", edgecolor="0.6", hatch="///", linewidth=0)
            )
            if mark := marks.get((row, column)):
                axes.text(column, row, mark, ha="center", va="center", size=size - 1, backgroundcolor="white")
            continue
        red, green, blue, _ = image.cmap(scale(value))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        text = "\n".join([number(value), *filter(None, [marks.get((row, column))])])
        axes.text(column, row, text, ha="center", va="center", size=size, color="white" if dark else "black")
