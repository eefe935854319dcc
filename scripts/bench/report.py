"""Results as a table, a CSV file and a bar chart."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from fedsim.extras import install_hint

# Okabe and Ito's palette, which colour-blind readers can distinguish; the hatches do the same in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000", "#999999")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "||", "oo")


@dataclass(frozen=True)
class Row:
    """One contender on one workload.

    Attributes:
        workload: as given on the command line.
        who: ``fedsim``, ``loop`` or a peer's name.
        seconds_per_round: median.
        gflops: billions of model operations per second (forward and backward, products only).
        ratio_to_loop: how many times as fast as the plain loop.
        fraction_of_matmul: `gflops` relative to a large matrix product on the same machine in the same run.
        fraction_of_peak: relative to multiply-adds in registers alone on all cores (`bench.peak`); NaN on a GPU.
        peak_rss_mb: peak memory of a fresh process until the end of its first round, median.
        first_round_s: seconds from launching that process to the end of its first round, median.
    """

    workload: str
    who: str
    seconds_per_round: float
    gflops: float
    ratio_to_loop: float
    fraction_of_matmul: float
    fraction_of_peak: float
    peak_rss_mb: float
    first_round_s: float


FORMATS = ("", "", ".4f", ".1f", ".2f", ".2f", ".3f", ".0f", ".1f")


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, aligned so that it can be read as plain text too."""
    header = [f.name for f in fields(Row)]
    cells = [[format(value, spec) for value, spec in zip(astuple(row), FORMATS, strict=True)] for row in rows]
    widths = [max(len(line[k]) for line in [header, *cells]) for k in range(len(header))]

    def line(values: Sequence[str]) -> str:
        padded = [v.ljust(w) if k < 2 else v.rjust(w) for k, (v, w) in enumerate(zip(values, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width) if k < 2 else ("-" * (width - 1) + ":") for k, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, cells)])


def write_csv(file: Path, rows: Sequence[Any]) -> None:
    """Write dataclasses of one type, with all digits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([f.name for f in fields(rows[0])])
        writer.writerows(astuple(row) for row in rows)


def machine() -> str:
    """One line on the machine and the versions."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            name = next((line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")), name)
    except OSError:
        pass
    from importlib.metadata import version

    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "numba", "numpy"))
    return f"{name}, {os.cpu_count()} CPUs; Python {platform.python_version()}, {versions}"


def pyplot() -> Any:
    """Import matplotlib for drawing to files.

    Raises:
        SystemExit: if it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit(f"--plot: needs matplotlib; {install_hint('plot')}") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150})
    return plt


def read_csv(file: Path) -> list[Row]:
    """Read what `write_csv` wrote of rows of a benchmark.

    Raises:
        SystemExit: if the file has other columns.
    """
    with file.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    names = [f.name for f in fields(Row)]
    if not lines or list(lines[0]) != names:
        raise SystemExit(f"--from {file}: must be a table that --csv wrote, with the columns {', '.join(names)}")
    return [Row(line["workload"], line["who"], *(float(line[name]) for name in names[2:])) for line in lines]


def bar_chart(file: Path, rows: Sequence[Row], matmul: dict[str, float], words: dict[str, str] | None = None) -> None:
    """Draw the GFLOP/s of every contender on every workload, on a logarithmic axis, since they differ a hundredfold.

    Args:
        file: the picture.
        rows: the measurements.
        matmul: workload to the GFLOP/s of the matrix product.
        words: workload to a few lines on what it is.
    """
    plt = pyplot()
    from matplotlib.patheffects import withStroke

    outline = withStroke(linewidth=2.5, foreground="white")
    workloads = list(dict.fromkeys(row.workload for row in rows))
    names = list(dict.fromkeys(row.who for row in rows))
    width = 0.84 / len(names)
    figure, axes = plt.subplots(figsize=(max(6.0, 0.6 + len(workloads) * (1.1 + 0.24 * len(names))), 4.4))
    for k, name in enumerate(names):
        own = [row for row in rows if row.who == name]
        places = [workloads.index(row.workload) + (k - (len(names) - 1) / 2) * width for row in own]
        heights = [row.gflops for row in own]
        look = {"color": COLOURS[k % len(COLOURS)], "hatch": HATCHES[k % len(HATCHES)], "edgecolor": "white"}
        axes.bar(places, heights, width, label=name, **look)
        for x, height in zip(places, heights, strict=True):
            text = axes.annotate(_digits(height), (x, height), (0, 2), textcoords="offset points", ha="center", size=9)
            text.set_path_effects([outline])
    for place, workload in enumerate(workloads):
        label = "a large matrix product" if place == 0 else None
        axes.hlines(
            matmul[workload], place - 0.45, place + 0.45, colors="black", linestyles="dashed", label=label, zorder=2.5
        )
    axes.set_yscale("log")
    axes.set_ylim(0.4 * min(row.gflops for row in rows))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0)
    axes.set_xticks(range(len(workloads)), [_named(workload, words or {}) for workload in workloads], fontsize=9)
    axes.set_ylabel("GFLOP/s (logarithmic; higher is better)")
    axes.set_title("Training speed of a whole round", loc="left", pad=30)
    axes.legend(frameon=False, ncols=len(names) + 1, loc="lower left", bbox_to_anchor=(-0.01, 0.99), fontsize=9)
    figure.savefig(file, bbox_inches="tight")
    plt.close(figure)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _named(workload: str, words: dict[str, str]) -> str:
    """A workload as typed, a line per change, and what it is."""
    typed = workload.replace(":", "\n").replace(",", "\n")
    return f"{typed}\n{words[workload]}" if workload in words else typed
