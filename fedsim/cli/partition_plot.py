"""``fedsim partition --plot FILE``: a split as a picture for a paper."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.caches import find_place_for_matplotlib
from fedsim.compare import escape
from fedsim.compare.plot import style
from fedsim.errors import UserError
from fedsim.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from fedsim.cli.partition_report import SplitReport

FORMATS = ("png", "svg", "pdf")
# No dates and no random ids in a file: the same split gives the same bytes.
METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}

_NAMED_CLIENTS, _NAMED_CATEGORIES, _BARS, _LONGEST = 30, 16, 20, 20


def check(file: Path) -> None:
    """Raise `UserError` for a file name that is not that of a picture, or if matplotlib is not installed."""
    if file.suffix[1:].lower() not in FORMATS:
        raise UserError(f"--plot {file}: must end in .png, .svg or .pdf")
    require("--plot", "plot", "matplotlib")


def draw(report: SplitReport, kind: str) -> bytes:
    """Return a picture of the kind ``png``, ``svg`` or ``pdf``: shares as a heat map, and how large clients are."""
    find_place_for_matplotlib()
    from matplotlib.figure import Figure

    clients = len(report.table)
    height = min(max(2.6, 0.9 + 0.17 * clients), 5.0)
    content = io.BytesIO()
    with style():
        figure = Figure(figsize=(7.2, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _heat_map(left, report, bar_aspect=9 * height)
        _sizes(right, report.table["train_samples"].to_numpy())
        figure.savefig(content, format=kind, dpi=300, metadata=METADATA[kind])
    return content.getvalue()


def _heat_map(axes: Axes, report: SplitReport, bar_aspect: float) -> None:
    shares, names = report.shares, [str(name) for name in report.table["name"]]
    if len(shares) > _NAMED_CLIENTS:
        dominant = shares.argmax(1)
        shares = shares[np.lexsort((-shares.max(1), dominant))]
        axes.set_ylabel("clients, ordered by their most frequent " + report.kind)
    else:
        axes.set_yticks(range(len(names)), [escape.drawn_name(name, _LONGEST) for name in names])
    count = len(report.categories)
    top = max(shares.max(), min(1.0, 5 / count))  # an even distribution must look even: a fifth of the scale at most
    image = axes.imshow(shares, aspect="auto", cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
    ticks = range(0, count, -(-count // _NAMED_CATEGORIES))
    axes.set_xticks(ticks, [escape.drawn_name(report.categories[k], _LONGEST) for k in ticks])
    axes.tick_params(length=2)
    axes.set_xlabel(
        {
            "label": "label",
            "token": f"token, the {count} most frequent",
            "quantile": f"quantile of the target (1: the lowest of {count})",
        }[report.kind]
    )
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=bar_aspect)
    bar.set_label("share of the client's training " + ("tokens" if report.kind == "token" else "samples"))
    bar.outline.set_linewidth(0.5)


def _sizes(axes: Axes, sizes: NDArray[np.int64]) -> None:
    """A histogram of samples per client, on a logarithmic axis where sizes are far apart."""
    from matplotlib.ticker import MaxNLocator

    low, high = int(sizes.min()), int(sizes.max())
    bars = min(_BARS, 2 * math.isqrt(len(sizes)) + 2)
    if high > 50 * np.median(sizes):
        edges = np.unique(np.rint(np.geomspace(low, high + 1, bars + 1)).astype(np.int64))
        axes.set_xscale("log")
    else:
        width = -(-(high - low + 1) // bars)
        edges = np.arange(low, high + 1 + width, width)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.hist(sizes, bins=list(edges - 0.5), color="#31688e", edgecolor="white", linewidth=0.4)
    if high - low < 8:
        axes.set_xlim(low - 4, high + 4)  # else a single size would be one bar as wide as the picture
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("training samples of a client")
    axes.set_ylabel("clients")
    axes.spines[["top", "right"]].set_visible(False)
