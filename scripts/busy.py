"""How a run fares on a machine that others use, with one thread and with more.

    python scripts/busy.py                                          # the default run beside 0 to 8 busy processes
    python scripts/busy.py --beside 0 2 --repeats 5 rounds=20       # other settings: overrides as for fedsim run

The script starts the busy processes itself: each spins in a core for as long as the runs beside it take. Runs with one
thread and with several take turns, each in a process of its own, so that a change of the machine's mood meets both.
Times are of the rounds alone, from ``timing.csv``, without the imports: the median, and the worst of all repeats. With
``--environment NAME=VALUE`` the runs get such variables too, to compare policies of OpenMP.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

SPIN = "while True: pass"


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Keep `number` processes spinning."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
        for other in others:
            other.wait()


def seconds(overrides: Sequence[str], threads: int, environment: Mapping[str, str]) -> float:
    """Run once in a process of its own and return the seconds from the start of the run to its last round."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "fedsim", "run", "console=none", *overrides, f"threads={threads}"]
        subprocess.run([*command, f"hydra.run.dir={run}"], check=True, env={**os.environ, **environment})
        with (run / "timing.csv").open() as file:
            return float(list(csv.DictReader(file))[-1]["elapsed"])


def main(arguments: Sequence[str] | None = None) -> list[tuple[int, int, float, float]]:
    """Measure and print; return a row (busy processes, threads, median, worst) per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings of the run, as for fedsim run")
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1, 2, 4, 8], help="numbers of busy processes")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--environment", nargs="+", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    environment = dict(text.partition("=")[::2] for text in options.environment)
    seconds(options.overrides, 1, environment)  # compiles, if need be
    print(f"{'beside':>6}  {'threads':>7}  {'median':>7}  {'worst':>7}  {'to one thread':>13}", flush=True)
    rows = []
    for number in options.beside:
        with busy(number):
            found: dict[int, list[float]] = {threads: [] for threads in options.threads}
            for _ in range(options.repeats):
                for threads, taken in found.items():
                    taken.append(seconds(options.overrides, threads, environment))
        first = median(found[options.threads[0]])
        for threads, taken in found.items():
            middle, worst = median(taken), max(taken)
            rows.append((number, threads, middle, worst))
            print(f"{number:6}  {threads:7}  {middle:7.2f}  {worst:7.2f}  {middle / first:13.2f}", flush=True)
    return rows


if __name__ == "__main__":
    main()
