"""How long commands take from start to exit, beside ``import torch``: ``python scripts/startup.py [--times 7]``.

Each line is a median in seconds of processes that are started in turns, so that a busy moment of the machine is shared
by all lines; the second number is the processor time of a process, the median too, which depends less on what else the
machine does. Nothing is cached but what a second call of a command finds. Two tiny runs are made for the lines that
need some.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PYTHON = (sys.executable, "-c")
FEDSIM = (sys.executable, "-m", "fedsim")
COMMANDS = {
    "import torch": (*PYTHON, "import torch"),
    "import pandas": (*PYTHON, "import pandas"),
    **{
        " ".join(("fedsim", *words)): (*FEDSIM, *words)
        for words in (
            ("--help",),
            ("run", "--help"),
            ("list",),
            ("list", "gru"),
            ("list", "lr"),
            ("run", "modle=gru"),
            ("run", "model=grru"),
            ("run", "client.optimizer.lrr=0.1"),
            ("run", "aggregator/combine=krumm"),
            ("run", "rounds=abc"),
            ("run", "rounds=0"),
            ("run", "client.optimizer.lr=-1"),
            ("compare", "a", "b"),
            ("run", "rounds=1", "console=none"),
        )
    },
}


def measured(command: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Wall-clock and processor time of a process, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, now = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7, help="processes per line")
    parser.add_argument("--only", default="", help="only lines with this text")
    asked = parser.parse_args()
    commands = {name: command for name, command in COMMANDS.items() if asked.only in name or name == "import torch"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a second call finds the modules compiled
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for seed, name in enumerate("ab"):
            run = (*FEDSIM, "run", "rounds=1", "console=none", f"seed={seed}", f"hydra.run.dir={name}")
            subprocess.run(run, cwd=folder, check=True)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(asked.times + 1):
            for name, command in commands.items():
                one = measured(command, folder)
                if number > 0:  # the first call fills caches of files
                    taken[name].append(one)
    whole = median(wall for wall, _ in taken["import torch"])
    for name, several in taken.items():
        wall, processor = (median(values) for values in zip(*several, strict=True))
        print(f"{wall:6.3f} {processor:6.3f} {wall / whole:6.2f} x  {name}")


if __name__ == "__main__":
    main()
