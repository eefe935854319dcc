"""How long a sweep takes with one job at a time and with its jobs side by side.

    python scripts/many_runs.py                                    # 60 jobs of the default run, 20 rounds each
    python scripts/many_runs.py --jobs 2 --repeats 9 rounds=50     # other settings: overrides as for fedsim run

Both ways take turns, each time in a process of its own and with its imports, so that a change of the machine's mood
meets both. The median of all repeats counts; beside each time stands the load of the machine when it began.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median

WAYS = {"one at a time": ["hydra.sweeper.max_batch_size=1"], "side by side": []}


def seconds(overrides: Sequence[str], jobs: int) -> float:
    """Run a sweep over `jobs` seeds and return its seconds from beginning to end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fedsim", "run", "-m", "console=none", f"seed=range(0,{jobs})", *overrides]
        begun = time.perf_counter()
        subprocess.run([*command, f"hydra.sweep.dir={folder}/sweep"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Measure and print; return the median of each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings of the runs, as for fedsim run")
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    overrides = options.overrides or ["rounds=20"]
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, words in WAYS.items():
            load = os.getloadavg()[0]
            times[way].append(seconds([*overrides, *words], options.jobs))
            print(f"{way}: {times[way][-1]:.1f} s (load {load:.1f})", flush=True)
    found = {way: median(values) for way, values in times.items()}
    for way, value in found.items():
        print(f"{way}: median {value:.1f} s")
    return found


if __name__ == "__main__":
    main()
