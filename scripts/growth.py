"""How a round's time and memory grow with clients, samples and local steps.

    python scripts/growth.py --csv growth.csv --plot growth.png
    python scripts/growth.py --clients 10 100 1000 --samples 20 --epochs 1 --repeats 3      # a quick look

The base is W2 of `benchmark.py` (20 samples of 29 steps per client, a GRU with 32 units), with every client in every
round. With 100 clients, the number of samples or of local steps (through epochs) is varied too. Each point is measured
in a separate process, so that its peak memory is its own. ``us_per_sample`` is a round's time divided by clients,
samples and epochs: it is constant where growth is linear. Memory includes the data (``data_mb``, with a second copy
while they are being made); training itself stays within ``engine.memory_budget``. Times are medians, and noisy on
shared machines.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median

from bench import report
from bench.measure import Contender, Failed, Worker
from bench.workloads import WORKLOADS, Spec, Workload

FEDSIM = Contender("fedsim", "bench.ours")
BASE = replace(WORKLOADS["W2"], clients=100, cohort=100)
AXES = ("clients", "samples", "local_steps")


@dataclass(frozen=True)
class Point:
    """One measurement; `varied` names the one of the next three fields that was varied."""

    varied: str
    clients: int
    samples: int
    local_steps: int
    seconds_per_round: float
    us_per_sample: float
    gflops: float
    data_mb: float
    peak_rss_mb: float


def workloads(clients: Sequence[int], samples: Sequence[int], epochs: Sequence[int]) -> list[tuple[str, Workload]]:
    """Every point to measure, with the name of what it varies."""
    return [
        *(("clients", replace(BASE, clients=n, cohort=n)) for n in clients),
        *(("samples", replace(BASE, samples=n)) for n in samples),
        *(("local_steps", replace(BASE, epochs=n)) for n in epochs),
    ]


def measure(varied: str, w: Workload, options: argparse.Namespace) -> Point:
    """Run one workload in a fresh process: a warm-up round, then `repeats` rounds, or fewer if they take long."""
    seconds: list[float] = []
    with Worker(FEDSIM, Spec(w, options.repeats + 1, options.threads)) as worker:
        worker.turn()
        started = time.perf_counter()
        while len(seconds) < options.repeats and (not seconds or time.perf_counter() - started < options.seconds):
            seconds.append(worker.turn()["seconds"])
        memory = worker.peak_rss_mb()
    taken = median(seconds)
    return Point(
        varied=varied,
        clients=w.clients,
        samples=w.samples,
        local_steps=w.epochs * math.ceil(w.samples / w.batch_size),
        seconds_per_round=taken,
        us_per_sample=1e6 * taken / (w.clients * w.samples * w.epochs),
        gflops=w.flops_per_round / taken / 1e9,
        data_mb=4 * w.clients * w.samples * w.steps * w.features / 2**20,
        peak_rss_mb=memory,
    )


def exponent(points: Sequence[Point]) -> float:
    """The slope of log time against the log of the varied quantity, over its larger half; 1 is linear."""
    upper = points[(len(points) - 1) // 2 :]
    first, last = upper[0], upper[-1]
    ratio = getattr(last, last.varied) / getattr(first, first.varied)
    return math.log(last.seconds_per_round / first.seconds_per_round) / math.log(ratio)


def show(point: Point) -> str:
    """One line of the table."""
    formats = ("11", "8", "8", "12", "18.4f", "14.1f", "7.1f", "8.0f", "12.0f")
    return " ".join(format(getattr(point, f.name), spec) for f, spec in zip(fields(Point), formats, strict=True))


def plot(file: Path, points: Sequence[Point]) -> None:
    """Plot time against each of the three, with a line of slope 1, and memory against clients."""
    plt = report.pyplot()
    figure, panels = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for panel, varied in zip(panels.flat, AXES, strict=False):
        own = [p for p in points if p.varied == varied]
        if not own:
            panel.set_axis_off()
            continue
        x, y = [getattr(p, varied) for p in own], [p.seconds_per_round for p in own]
        panel.loglog(x, y, "o-", color=report.COLOURS[0], label="fedsim")
        panel.loglog(x, [y[-1] * v / x[-1] for v in x], "--", color="black", label="linear")
        panel.set(xlabel=f"{varied.replace('_', ' ')} per {'round' if varied == 'clients' else 'client'}")
        panel.set_ylabel("seconds per round")
        panel.set_xticks(x, [f"{v:,}" for v in x])
        panel.minorticks_off()
        panel.legend(frameon=False)
    own, panel = [p for p in points if p.varied == "clients"], panels.flat[3]
    clients = [p.clients for p in own]
    panel.loglog(clients, [p.peak_rss_mb for p in own], "o-", color=report.COLOURS[0], label="peak memory")
    panel.loglog(clients, [p.data_mb for p in own], "s--", color=report.COLOURS[1], label="of which data, one copy")
    panel.set(xlabel="clients per round", ylabel="MiB")
    panel.set_xticks(clients, [f"{v:,}" for v in clients])
    panel.minorticks_off()
    panel.legend(frameon=False)
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    figure.savefig(file)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print all points; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="*", type=int, default=[10, 100, 1000, 10_000, 100_000])
    parser.add_argument("--samples", nargs="*", type=int, default=[10, 20, 40, 80, 160, 320, 640])
    parser.add_argument("--epochs", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds of each point (default 7)")
    parser.add_argument("--seconds", type=float, default=60, help="start no more rounds of a point after (default 60)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="plot the results (needs matplotlib)")
    options = parser.parse_args(argv)
    if options.plot:
        report.pyplot()  # fail now if matplotlib is missing
    print(report.machine())
    print(" ".join(f.name for f in fields(Point)), flush=True)
    points: list[Point] = []
    for varied, w in workloads(options.clients, options.samples, options.epochs):
        points.append(measure(varied, w, options))
        print(show(points[-1]), flush=True)
        if options.csv:
            report.write_csv(options.csv, points)
    for varied in AXES:
        own = [p for p in points if p.varied == varied]
        if len(own) > 1:
            print(f"over the larger half, time grows as {varied} to the power of {exponent(own):.2f}")
    if options.plot:
        plot(options.plot, points)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"growth: {error}")
