"""``fedsim compare --plot FILE``: learning curves with bands over seeds, or a heat map of two settings."""

from __future__ import annotations

import importlib.util
import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.caches import find_place_for_matplotlib
from fedsim.compare.escape import drawn_name
from fedsim.compare.groups import ABSENT, Group
from fedsim.compare.output import number
from fedsim.compare.table import Comparison
from fedsim.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
X_AXES = ("round", "bytes_up", "bytes_down", "virtual_seconds")
# No dates and no random ids in a file: the same runs give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
# Okabe and Ito (2008), "Color Universal Design": distinct for any colour vision; yellow is too light for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Distinct without colour, too: five styles and seven colours give 35 pairs before one repeats.
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1.5, 1, 1.5, 1, 1.5)))
_MANY, _PANELS, _BANDS = 6, 4, 7
_MOST_KEYS, _TALLEST = 12, 60  # in a legend's title, and inches of a picture
_LARGEST = 1e300  # what is beyond it leaves an axis no room
_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@dataclass(frozen=True, eq=False)
class Curve:
    """A group's learning curve: ``[R]`` arrays of the rounds that all its seeds have measured."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64] | None


def check(file: Path) -> None:
    """Raise `UserError` for a file name that is not that of a picture, or if matplotlib is not installed."""
    if file.suffix[1:].lower() not in FORMATS:
        raise UserError(f"--plot {file}: must end in .png, .svg or .pdf")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot: needs matplotlib; install it with: python -m pip install matplotlib")


def draw(comparison: Comparison, kind: str, x: str | None = None, heatmap: bool | None = None) -> bytes:
    """Return a picture of the kind ``png``, ``svg`` or ``pdf``.

    Args:
        comparison: what to draw.
        kind: one of `FORMATS`.
        x: what the curves are drawn against; None is ``round``.
        heatmap: True: a heat map of the two keys that differ, whatever they are. None: a heat map if exactly two keys
            differ, both are numbers with several values, and `x` is None.

    Raises:
        UserError: if these runs do not have what the picture needs.
    """
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


def curve(group: Group, metric: str, x: str) -> Curve | None:
    """A group's mean and spread, round by round; None if its seeds have measured no round in common.

    What is not finite, or too large to draw, is NaN.

    Only rounds that all seeds have count: a mean over ever fewer seeds would jump where one ends. Where `x` differs
    between seeds (bytes of cohorts of random size), the mean stands at the mean of x.
    """
    found = [(run.columns.get(metric), run.columns.get(x)) for run in group.runs]
    if any(y is None or (where is None and x != "round") for y, where in found):
        return None
    shared = sorted(set.intersection(*(set(y.index) for y, _ in found if y is not None)))
    if x != "round":
        shared = [at for at in shared if all(where is not None and at in where.index for _, where in found)]
    if not shared:
        return None
    y = np.stack([np.asarray(values.loc[shared], float) for values, _ in found if values is not None])
    if x == "round":
        places = np.asarray(shared, float)
    else:
        places = np.mean([np.asarray(where.loc[shared], float) for _, where in found if where is not None], axis=0)
    mean, std = y.mean(0), y.std(0, ddof=1) if len(y) > 1 else None
    return Curve(_drawable(places), _drawable(mean), None if std is None else _drawable(std))


def _drawable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(values) < _LARGEST, values, math.nan)


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


def curves(figure: Figure, comparison: Comparison, keys: Sequence[str], x: str) -> None:
    """Draw one line per group; many groups of two settings get a panel for each value of the one with fewer."""
    found = {id(group): curve(group, comparison.metric, x) for group in comparison.groups}
    if not any(found.values()):
        columns = sorted({name for group in comparison.groups for run in group.runs for name in run.columns})
        raise UserError(
            f"--plot: no run has both {comparison.metric} and {x}"
            + ("" if x in columns else f" (--x may be round, {', '.join(c for c in columns if c in X_AXES)})")
        )
    panel_key, panels = _panels(comparison.groups, keys)
    line_keys = [key for key in keys if key != panel_key]
    labels = {id(group): _label(group, line_keys) for group in comparison.groups}
    order = sorted(dict.fromkeys(labels.values()), key=_natural)
    looks = {label: (COLORS[at % len(COLORS)], STYLES[at % len(STYLES)]) for at, label in enumerate(order)}
    figure.set_size_inches(max(5.6, 1.4 + 2.2 * len(panels)), 3.2)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    reach = max((float(at) for c in found.values() if c is not None for at in c.x if math.isfinite(at)), default=0.0)
    scale, prefix = next(((s, p) for s, p in _SI if reach >= s), (1.0, "")) if x.startswith("bytes") else (1.0, "")
    handles: dict[str, Any] = {}
    bands = False
    for axes, value in zip(all_axes, panels, strict=True):
        members = [group for group in comparison.groups if panel_key is None or group.keys[panel_key] == value]
        for group in sorted(members, key=lambda group: order.index(labels[id(group)])):
            if (line_of := found[id(group)]) is None:
                continue
            color, dashes = looks[labels[id(group)]]
            (line,) = axes.plot(line_of.x / scale, line_of.mean, color=color, linestyle=dashes, linewidth=1.3)
            handles.setdefault(labels[id(group)], line)
            if line_of.std is not None and len(members) <= _BANDS:
                bands = True
                axes.fill_between(
                    line_of.x / scale,
                    line_of.mean - line_of.std,
                    line_of.mean + line_of.std,
                    color=color,
                    alpha=0.16,
                    linewidth=0,
                )
        if panel_key is not None:
            axes.set_title(f"{drawn_name(panel_key)} = {drawn_name(_shown(value))}", fontsize=8)
        axes.set_xlabel(_x_label(x, prefix))
        axes.grid(True, color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        if x == "round":
            axes.xaxis.get_major_locator().set_params(integer=True)
    all_axes[0].set_ylabel(_y_label(comparison.metric, bands, comparison.groups))
    if len(order) > 1:
        _legend(figure, {label: handles[label] for label in order if label in handles}, line_keys)


def _legend(figure: Figure, handles: dict[str, Any], keys: Sequence[str]) -> None:
    """Name the lines: at the right, or below where the names are long."""
    labels = list(map(drawn_name, handles))
    keys = [*map(drawn_name, keys[:_MOST_KEYS]), *(["…"] if len(keys) > _MOST_KEYS else [])]
    longest, width = max(map(len, [*labels, *keys])), figure.get_figwidth()
    below = longest > 24
    columns = max(1, int(width * 13 / (longest + 8))) if below else 1 if len(handles) <= 16 else 2
    title = textwrap.fill(", ".join(keys), int(width * 13)) if below else ",\n".join(keys)
    if below:
        lines = title.count("\n") + 1 + math.ceil(len(handles) / columns)
        figure.set_size_inches(width, min(figure.get_figheight() + 0.17 * lines, _TALLEST))
    figure.legend(
        list(handles.values()),
        [f" {label}" if label.startswith("_") else label for label in labels],  # else matplotlib leaves it out
        title=title or None,
        loc="outside lower center" if below else "outside right center",
        frameon=False,
        handlelength=3.2,
        ncols=columns,
    )


def _panels(groups: Sequence[Group], keys: Sequence[str]) -> tuple[str | None, list[object]]:
    """The key whose values get a panel each, and these values; no key and a single panel where that would not help."""
    if len(groups) <= _MANY or len(keys) != 2:
        return None, [None]
    values = {key: sorted({group.keys[key] for group in groups}, key=_natural) for key in keys}
    key = min(keys, key=lambda key: len(values[key]))
    return (key, values[key]) if 1 < len(values[key]) <= _PANELS else (None, [None])


def _label(group: Group, keys: Sequence[str]) -> str:
    if not group.keys:
        return group.runs[0].path.name if group.runs[0].config is None or not keys else "all"
    return ", ".join(_shown(group.keys[key]) for key in keys if group.keys[key] != ABSENT) or group.runs[0].path.name


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _natural(value: object) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    try:
        return 0, float(str(value)), ""
    except ValueError:
        return 1, 0.0, str(value)


def _x_label(x: str, prefix: str) -> str:
    return {
        "round": "round",
        "bytes_up": f"sent by all clients ({prefix}B)",
        "bytes_down": f"received by all clients ({prefix}B)",
        "virtual_seconds": "simulated time (s)",
    }[x]


def _metric_label(metric: str) -> str:
    words = drawn_name(metric.replace("_", " "))
    if "accuracy" in metric:
        return f"{words} (share)"
    if metric.endswith(("rmse", "mae")):
        return f"{words} (unit of the target)".replace("rmse", "RMSE").replace("mae", "MAE")
    return words


def _y_label(metric: str, bands: bool, groups: Sequence[Group]) -> str:
    several = max(len(group.runs) for group in groups)
    if several < 2:
        return _metric_label(metric)
    return f"{_metric_label(metric)}\n" + ("mean ± std over seeds" if bands else "mean over seeds")


def heat_map(figure: Figure, comparison: Comparison, keys: Sequence[str]) -> None:
    """Draw a cell per pair of settings, coloured by the column that the table is sorted by, its number written in."""
    across, down = sorted(keys, key=lambda key: -len({group.keys[key] for group in comparison.groups}))
    columns = sorted({group.keys[across] for group in comparison.groups}, key=_natural)
    rows = sorted({group.keys[down] for group in comparison.groups}, key=_natural)
    if all(isinstance(value, (int, float)) for value in rows):
        rows.reverse()  # numbers grow upwards, words are read downwards
    values = np.full((len(rows), len(columns)), math.nan)
    marks: dict[tuple[int, int], str] = {}
    for group, found in zip(comparison.groups, comparison.summaries, strict=True):
        place, one = (rows.index(group.keys[down]), columns.index(group.keys[across])), found[comparison.sorted_by]
        values[place] = one.mean if abs(one.mean) < _LARGEST else math.nan
        if one.n < one.total:
            marks[place] = f"{one.failed} of {one.total}\nfailed" if one.failed else f"{one.n} of {one.total}"
    if not np.isfinite(values).any():
        raise UserError(f"--heatmap: nothing was measured of {comparison.sorted_by}")
    figure.set_size_inches(min(max(4.2, 1.9 + 0.62 * len(columns)), 10), min(max(2.4, 1.1 + 0.42 * len(rows)), 8))
    axes = figure.subplots()
    _cells(axes, values, marks)
    axes.set_xticks(range(len(columns)), [drawn_name(_shown(value)) for value in columns])
    axes.set_yticks(range(len(rows)), [drawn_name(_shown(value)) for value in rows])
    if max(len(_shown(value)) for value in columns) > 8:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlabel(drawn_name(across))
    axes.set_ylabel(drawn_name(down))
    axes.tick_params(length=0)
    bar = figure.colorbar(axes.images[0], ax=axes, fraction=0.05, pad=0.02)
    seeds = {len(group.runs) for group in comparison.groups}
    over = f"\nmean over {min(seeds)}{f' to {max(seeds)}' if len(seeds) > 1 else ''} seeds" if max(seeds) > 1 else ""
    first, _, rest = comparison.sorted_by.partition(" ")
    known = first in ("final", "best")
    label = f"{first} {_metric_label(rest)}" if known else drawn_name(comparison.sorted_by.replace("_", " "))
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
