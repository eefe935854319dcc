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
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++")


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
        peak_rss_mb: peak memory of a fresh process until the end of its first round, median.
        first_round_s: seconds from launching that process to the end of its first round, median.
    """

    workload: str
    who: str
    seconds_per_round: float
    gflops: float
    ratio_to_loop: float
    fraction_of_matmul: float
    peak_rss_mb: float
    first_round_s: float


FORMATS = ("", "", ".4f", ".1f", ".2f", ".2f", ".0f", ".1f")


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


def bar_chart(file: Path, rows: Sequence[Row], matmul: dict[str, float]) -> None:
    """Draw the GFLOP/s of every contender on every workload, and of the matrix product (``matmul``, by workload)."""
    plt = pyplot()
    workloads = list(dict.fromkeys(row.workload for row in rows))
    names = list(dict.fromkeys(row.who for row in rows))
    width = 0.8 / len(names)
    figure, axes = plt.subplots(figsize=(max(6.0, 1.0 + len(workloads) * (1.0 + 0.45 * len(names))), 4.5))
    for k, name in enumerate(names):
        own = [row for row in rows if row.who == name]
        places = [workloads.index(row.workload) + (k - (len(names) - 1) / 2) * width for row in own]
        heights = [row.gflops for row in own]
        look = {"color": COLOURS[k % len(COLOURS)], "hatch": HATCHES[k % len(HATCHES)], "edgecolor": "white"}
        axes.bar(places, heights, width, label=name, **look)
        for x, height in zip(places, heights, strict=True):
            axes.annotate(f"{height:.3g}", (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=9)
    for place, workload in enumerate(workloads):
        label = "matrix product, 2048 x 2048" if place == 0 else None
        axes.hlines(matmul[workload], place - 0.45, place + 0.45, colors="black", linestyles="dashed", label=label)
    axes.set_xticks(range(len(workloads)), [workload.replace(":", "\n") for workload in workloads])
    axes.set_ylabel("GFLOP/s (higher is better)")
    axes.set_title("Training speed of a whole round", loc="left")
    axes.legend(frameon=False, ncols=min(4, len(names) + 1), loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.savefig(file, bbox_inches="tight")
    plt.close(figure)
