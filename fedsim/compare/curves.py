"""Learning curves: a line per group with a band over seeds, and its name at its end."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.compare.escape import drawn_name, drawn_names
from fedsim.compare.groups import ABSENT, Group
from fedsim.compare.measures import DIVERGED
from fedsim.compare.table import Comparison
from fedsim.compare.words import LARGEST, metric_label, natural, shown_value, x_label
from fedsim.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

X_AXES = ("round", "bytes_up", "bytes_down", "virtual_seconds")
# Okabe and Ito (2008), "Color Universal Design": distinct for any colour vision; yellow is too light for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Distinct without colour, too: five styles and seven colours give 35 pairs before one repeats.
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "os^Dv"
_MANY, _PANELS, _BANDS, _LINES = 6, 4, 7, 10
_PER_ROW, _MOST_PANELS, _MOST_BEHIND = 5, 200, 40
_LONGEST, _PANEL_NAME, _PANEL_TITLE = 48, 36, 78  # characters of a name
_DECADES = 3  # of errors and losses, from which on the axis is logarithmic
_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@dataclass(frozen=True, eq=False)
class Curve:
    """A group's learning curve: ``[R]`` arrays of the rounds that all its seeds have measured."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64] | None


@dataclass(frozen=True)
class Look:
    """How a line is drawn, different from every other's."""

    color: str
    dashes: Any
    marker: str
    place: int


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
    return np.where(np.abs(values) < LARGEST, values, math.nan)


def curves(figure: Figure, comparison: Comparison, keys: Sequence[str], x: str) -> None:
    """Draw one line per group, best first.

    A few groups share one panel, with their names where the lines end. Many groups of two settings get a panel for each
    value of the one with fewer; other many groups get a panel each, with all others behind in grey.
    """
    found = {id(group): curve(group, comparison.metric, x) for group in comparison.groups}
    if not any(found.values()):
        columns = sorted({name for group in comparison.groups for run in group.runs for name in run.columns})
        raise UserError(
            f"--plot: no run has both {comparison.metric} and {x}"
            + ("" if x in columns else f" (--x may be round, {', '.join(c for c in columns if c in X_AXES)})")
        )
    reach = max((float(at) for c in found.values() if c is not None for at in c.x if math.isfinite(at)), default=0.0)
    scale, prefix = next(((s, p) for s, p in _SI if reach >= s), (1.0, "")) if x.startswith("bytes") else (1.0, "")
    lines = {
        group: Curve(one.x / scale, one.mean, one.std)
        for group in comparison.groups
        if (one := found[id(group)]) is not None
    }
    panel_key, panels = _panels(comparison.groups, keys)
    if panel_key is not None:
        bands = _grid(figure, lines, panel_key, panels, [key for key in keys if key != panel_key])
    elif len(lines) > _LINES:
        bands = _one_each(figure, lines, keys, comparison)
    else:
        bands = _together(figure, lines, keys)
    low = comparison.mode == "min"
    for axes in figure.axes:
        _finish(axes, x, low and _spans_decades(lines))
    y = metric_label(comparison.metric)
    if max(len(group.runs) for group in comparison.groups) > 1:
        y += "\nmean ± std over seeds" if bands else "\nmean over seeds"
    if len(figure.axes) > _PANELS:
        figure.supxlabel(x_label(x, prefix), fontsize="medium")
        figure.supylabel(y.replace("\n", ", "), fontsize="medium")
        return
    for axes in figure.axes:
        axes.set_xlabel(x_label(x, prefix))
    figure.axes[0].set_ylabel(y)


def _finish(axes: Axes, x: str, logarithmic: bool) -> None:
    axes.grid(True, color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if x == "round":
        axes.locator_params("x", integer=True)
    if logarithmic:
        axes.set_yscale("log", nonpositive="clip")


def _spans_decades(lines: Mapping[Group, Curve]) -> bool:
    """Whether one axis for all of these positive values would show little but the largest, as where a run diverged."""
    values = np.concatenate([one.mean[np.isfinite(one.mean)] for one in lines.values()])
    return len(values) > 0 and values.min() > 0 and values.max() > 10**_DECADES * values.min()


def _looks(number: int) -> list[Look]:
    return [
        Look(COLORS[at % len(COLORS)], STYLES[at % len(STYLES)], MARKERS[at % len(MARKERS)], at) for at in range(number)
    ]


def _draw(axes: Axes, one: Curve, look: Look, of: int, band: bool, diverged: bool) -> Any:
    """A line with markers at places of its own, to show where it lies under another; a cross where it diverged."""
    step = max(1, len(one.x) // 6)
    (line,) = axes.plot(
        one.x,
        one.mean,
        color=look.color,
        linestyle=look.dashes,
        linewidth=1.3,
        marker=look.marker,
        markersize=3.2,
        markevery=(look.place * step // max(of, 1) % step, step) if of > 1 else [],
    )
    if one.std is not None and band:
        axes.fill_between(one.x, one.mean - one.std, one.mean + one.std, color=look.color, alpha=0.16, linewidth=0)
    if diverged and len(ends := np.flatnonzero(np.isfinite(one.mean))):
        axes.plot(one.x[ends[-1]], one.mean[ends[-1]], "x", color=look.color, markersize=7, markeredgewidth=1.8)
    return line


def _together(figure: Figure, lines: Mapping[Group, Curve], keys: Sequence[str]) -> bool:
    """All lines in one panel, each with its name at the height where it ends; returns whether there are bands."""
    names = drawn_names([label(group, keys, len(keys) == 1) + _fate(group) for group in lines], _LONGEST)
    figure.set_size_inches(5.6 + max(0.0, 0.07 * (max(map(len, names)) - 14)), max(3.2, 0.19 * len(lines) + 1.2))
    axes = figure.subplots()
    looks = _looks(len(lines))
    bands = any(one.std is not None for one in lines.values()) and len(lines) <= _BANDS
    for (group, one), look in zip(lines.items(), looks, strict=True):
        _draw(axes, one, look, len(lines), bands, _diverged(group))
    if len(lines) > 1:
        if _spans_decades(lines):
            axes.set_yscale("log")
        title = drawn_name(keys[0], _LONGEST) if len(keys) == 1 else ""
        _name_ends(figure, axes, list(lines.values()), looks, names, title)
    return bands


def _name_ends(
    figure: Figure, axes: Axes, lines: Sequence[Curve], looks: Sequence[Look], names: Sequence[str], title: str
) -> None:
    """Write the names to the right of the axes, as near as they fit to where the lines end, which they are tied to."""
    from matplotlib.transforms import ScaledTranslation

    ends = []
    for one in lines:
        there = np.flatnonzero(np.isfinite(one.mean))
        ends.append((one.x[there[-1]], one.mean[there[-1]]) if len(there) else (math.nan, math.nan))
    axes.margins(x=0.01)
    axes.set_ylim(axes.get_ylim())
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform(end)[1]) if math.isfinite(end[1]) else 0.0 for end in ends]
    room = 0.15 / (figure.get_figheight() - 0.55)  # of a line of text, in parts of the axes
    left, middle, right = (
        axes.transAxes + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans) for points in (14, 26, 38)
    )
    places = spread_out(wanted, room)
    for look, end, name, y in zip(looks, ends, names, places, strict=True):
        axes.plot(1, y, look.marker, markersize=3.2, transform=middle, color=look.color, clip_on=False)
        axes.annotate(
            "", (1, y), (1, y), left, right, arrowprops=_tie(look.color, look.dashes, 1.3), annotation_clip=False
        )
        if math.isfinite(end[1]):
            early = end[0] < max(x for x, _ in ends if math.isfinite(x))
            tie = _tie(look.color, ":" if early else "-", 0.5)
            axes.annotate("", end, (1, y), "data", left, arrowprops=tie, annotation_clip=False)
        axes.text(1, y, f"  {name}", transform=right, va="center_baseline")
    if title:
        axes.text(1, max(places) + 1.2 * room, title, transform=left, va="center_baseline", weight="bold")


def _tie(color: str, dashes: Any, width: float) -> dict[str, Any]:
    return {"arrowstyle": "-", "color": color, "linestyle": dashes, "linewidth": width, "shrinkA": 0, "shrinkB": 0}


def spread_out(wanted: Sequence[float], room: float) -> list[float]:
    """Places near those `wanted`, with `room` between neighbours, in the same order, and in [0, 1] if they fit."""
    order = sorted(range(len(wanted)), key=lambda at: (wanted[at], -at))
    blocks: list[tuple[float, int]] = []  # centre and number of names that stand close together
    for at in order:
        centre, count = _within(wanted[at], 0), 1
        while blocks and blocks[-1][0] + blocks[-1][1] * room / 2 > centre - count * room / 2:
            other, number = blocks.pop()
            centre, count = (centre * count + other * number) / (count + number), count + number
            centre = _within(centre, (count - 1) * room / 2)
        blocks.append((centre, count))
    places = [centre + (k - (count - 1) / 2) * room for centre, count in blocks for k in range(count)]
    found = [0.0] * len(wanted)
    for at, place in zip(order, places, strict=True):
        found[at] = place
    return found


def _within(centre: float, half: float) -> float:
    """The centre of names that reach `half` to both sides, moved so that none is above 1, nor, if they fit, below 0."""
    return min(max(centre, half), 1 - half)


def _grid(
    figure: Figure, lines: Mapping[Group, Curve], key: str, values: Sequence[object], keys: Sequence[str]
) -> bool:
    """A panel for each value of a setting, and one legend for all; returns whether there are bands."""
    labels = {group: label(group, keys, len(keys) == 1) for group in lines}
    order = list(dict.fromkeys(labels.values()))  # the best of each first
    looks = dict(zip(order, _looks(len(order)), strict=True))
    figure.set_size_inches(max(5.6, 1.4 + 2.2 * len(values)), 3.2)
    handles: dict[str, Any] = {}
    bands = False
    for axes, value in zip(figure.subplots(1, len(values), sharey=True, squeeze=False)[0], values, strict=True):
        members = {group: one for group, one in lines.items() if group.keys[key] == value}
        for group, one in members.items():
            band = len(members) <= _BANDS
            bands |= band and one.std is not None
            line = _draw(axes, one, looks[labels[group]], len(order), band, _diverged(group))
            handles.setdefault(labels[group], line)
        name = f"{key} = {shown_value(value)}"
        short = name if len(name) <= _PANEL_NAME else f"{_short(key, [key])} = {shown_value(value)}"
        axes.set_title(drawn_name(short, _PANEL_NAME), fontsize=8)
    _legend(figure, {name: handles[name] for name in order if name in handles}, keys)
    return bands


def _legend(figure: Figure, handles: dict[str, Any], keys: Sequence[str]) -> None:
    """Name the lines: at the right, or below where the names are long."""
    names = drawn_names(list(handles), _LONGEST)
    title = drawn_name(keys[0], _LONGEST) if len(keys) == 1 else ""
    longest, width = max(map(len, [*names, title])), figure.get_figwidth()
    below = longest > 24
    columns = max(1, int(width * 13 / (longest + 8))) if below else 1
    if below:
        figure.set_size_inches(width, figure.get_figheight() + 0.17 * (1 + math.ceil(len(handles) / columns)))
    figure.legend(
        list(handles.values()),
        [f" {name}" if name.startswith("_") else name for name in names],  # else matplotlib leaves it out
        title=title or None,
        loc="outside lower center" if below else "outside right center",
        frameon=False,
        handlelength=3.2,
        ncols=columns,
    )


def _one_each(figure: Figure, lines: Mapping[Group, Curve], keys: Sequence[str], comparison: Comparison) -> bool:
    """A panel for each group, best first, with all others in grey behind it; returns whether there are bands."""
    from matplotlib.collections import LineCollection

    drawn = list(lines.items())[:_MOST_PANELS]
    names = drawn_names([label(group, keys) + _fate(group) for group, _ in drawn], _PANEL_TITLE)
    rows = math.ceil(len(drawn) / _PER_ROW)
    figure.set_size_inches(8.6, 1.5 * rows + 0.6)
    panels = figure.subplots(rows, _PER_ROW, sharex=True, sharey=True, squeeze=False).ravel()
    behind = [np.column_stack([one.x, one.mean]) for _, one in drawn] if len(drawn) <= _MOST_BEHIND else []
    look = Look(COLORS[0], "-", "", 0)
    for axes, (group, one), name in zip(panels, drawn, names, strict=False):
        axes.add_collection(LineCollection(behind, colors="0.75", linewidths=0.5))
        _draw(axes, one, look, 1, True, _diverged(group))
        axes.set_title("\n".join(textwrap.wrap(name, 27)), fontsize=7, loc="left")
    for at, axes in enumerate(panels[len(drawn) :], len(drawn)):
        axes.remove()
        panels[at - _PER_ROW].xaxis.set_tick_params(labelbottom=True)
    title = ", ".join(drawn_name(key, 40) for key in keys[:_PANELS]) + (", …" if len(keys) > _PANELS else "")
    left = f", the first {len(drawn)} of {len(lines)}" if len(lines) > len(drawn) else ""
    words = f"{title + ': ' if title else ''}best {comparison.sorted_by.replace('_', ' ')} first{left}"
    figure.suptitle("\n".join(textwrap.wrap(words, 110)), fontsize=8, x=0.01, ha="left")
    return any(one.std is not None for _, one in drawn)


def _panels(groups: Sequence[Group], keys: Sequence[str]) -> tuple[str | None, list[object]]:
    """The key whose values get a panel each, and these values; no key and a single panel where that would not help."""
    if len(groups) <= _MANY or len(keys) != 2:
        return None, [None]
    values = {key: sorted({group.keys[key] for group in groups}, key=natural) for key in keys}
    few, many = sorted(keys, key=lambda key: len(values[key]))
    fits = 1 < len(values[few]) <= _PANELS and len(values[many]) <= _LINES
    return (few, values[few]) if fits else (None, [None])


def label(group: Group, keys: Sequence[str], alone: bool = False) -> str:
    """A group's name among others that differ in `keys`: values that say what they are.

    The value is enough where the key is named nearby (`alone`) and where it is an option's, such as ``fedavg``; others
    are ``lr=0.1``.
    """
    if not group.keys:
        return group.runs[0].path.name if group.runs[0].config is None or not keys else "all"
    words = [
        shown_value(value) if alone or _speaks(key, value) else f"{_short(key, keys)}={shown_value(value)}"
        for key in keys
        if (value := group.keys[key]) != ABSENT
    ]
    return ", ".join(words) or group.runs[0].path.name


def _speaks(key: str, value: object) -> bool:
    """Whether a value says what it is: the name of an option or a run, as opposed to a number or a setting's word."""
    if not isinstance(value, str) or value in ("null", "true", "false", "none", "-", "default"):
        return False
    return "." not in key and not value[:1].isdigit()


def _short(key: str, keys: Sequence[str]) -> str:
    """The end of a key that is no other's: ``lr`` for ``client.optimizer.lr``, unless the server's is there too."""
    parts = key.replace("/", ".").split(".")
    others = [other.replace("/", ".").split(".") for other in keys if other != key]
    for length in range(1, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            return ".".join(parts[-length:])
    return key


def _diverged(group: Group) -> bool:
    return any(run.status == DIVERGED for run in group.runs)


def _fate(group: Group) -> str:
    """What a name says of runs that diverged."""
    count = sum(run.status == DIVERGED for run in group.runs)
    if not count:
        return ""
    return " (× diverged)" if count == len(group.runs) else f" (× {count} of {len(group.runs)} diverged)"
