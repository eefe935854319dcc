"""How a round's time, traffic and memory change with the number of processes, next to what the cost model predicts.

    python scripts/scaling.py --processes 1 2 --turns 5 --csv scaling.csv
    python scripts/scaling.py --processes 1 2 --turns 1 --rounds 2 --only W2      # a quick look
    python scripts/scaling.py --processes 1 2 --memory 100000 1000000             # of how many clients

Every process has one thread. Runs with different numbers of processes take turns, so that a busy machine affects all of
them alike; the first round (compilation, first allocations) is not counted. `docs/scaling.md` explains the model:

    seconds(N) = seconds(1) * (largest share of the work) + meetings * latency + bytes / bandwidth

where latency and bandwidth are measured in the same processes, with messages of 8 bytes and of 16 MB.

With `--memory` it starts runs of `fedsim` with that many clients instead, and looks at their processes from outside
(Linux). A page that n processes have in common counts one n-th in each (Pss). The sum is what the machine needs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

COMMON = ("data=synthetic", "partition=natural", "data.length=29", "data.features=12", "data.classes=9", "threads=1")
COMMON = (*COMMON, "device=cpu", "console=none", "checkpoint=none", "client.epochs=1")
WORKLOADS = {
    "W1": (
        *("data.clients=100", "data.samples_per_client=64", "sampler.cohort_size=50", "model.hidden_size=64"),
        *("client.batch_size=16", "data.test_samples_per_client=1"),
    ),
    "W2": ("data.clients=1000", "data.samples_per_client=20", "sampler.cohort_size=100", "model.hidden_size=32"),
    "wide": (
        *("data.clients=50", "data.samples_per_client=40", "sampler.cohort_size=10", "model=lstm"),
        *("model.hidden_size=256", "model.num_layers=2"),
    ),
    "W3": (
        *("data.clients=50", "data.samples_per_client=100", "sampler.cohort_size=10", "model=lstm"),
        *("model.hidden_size=256", "model.num_layers=2", "data.length=80", "client.batch_size=10"),
        "data.test_samples_per_client=1",
    ),
    "rows": (
        *("data.clients=1000", "data.samples_per_client=20", "sampler.cohort_size=100", "model.hidden_size=32"),
        "aggregator=median",
    ),
    "kept": (
        *("data.clients=1000", "data.samples_per_client=20", "sampler.cohort_size=100", "model.hidden_size=32"),
        "aggregator=scaffold",
    ),
}
LARGE = ("data=many", "partition=natural", "threads=1", "device=cpu", "console=none", "checkpoint=none")
LARGE = (*LARGE, "client.epochs=1", "sampler.cohort_size=1000", "model.hidden_size=16", "eval.every=1000")
"""Of `--memory`: each client has 2.4 kB of samples, numbers at random that are made in seconds."""
MANY = """
from dataclasses import dataclass

import numpy as np

from fedsim.data.dataset import Dataset, Split, Task


@dataclass(frozen=True)
class Many:
    clients: int = 1

    def load(self, seed):
        def split(count):
            shape = (self.clients * count, 20, 5)
            owners = np.repeat(np.arange(self.clients), count)
            labels = np.arange(len(owners)) % 5
            inputs = np.random.default_rng(count).standard_normal(shape, np.float32)
            return Split(inputs, np.full(len(owners), 20), labels, owners)

        names = tuple(f"client_{k}" for k in range(self.clients))
        return Dataset("many", Task.CLASSIFICATION, split(5), split(1), 5, client_names=names)
"""
COLUMNS = (
    "workload",
    "processes",
    "seconds",
    "speed_up",
    "predicted_speed_up",
    "added_up",
    "gathered",
    "memory_mb",
    "meetings",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--memory", type=int, nargs="+", metavar="CLIENTS", help="measure memory alone")
    parser.add_argument("--with", dest="more", nargs="+", default=[], help="overrides of the runs of --memory")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    columns: tuple[str, ...] = COLUMNS
    if arguments.memory:
        columns = ("clients", "processes", "each_mb", "sum_mb", "largest_sum_mb", "seconds_to_round_1")
        sizes = [(clients, size) for clients in arguments.memory for size in arguments.processes]
        rows = []
        for one in sizes:
            rows.append((*one, *memory(*one, arguments.rounds, arguments.more)))
            print(*rows[-1], file=sys.stderr)
    else:
        rows = [row for name in arguments.only for row in compare(name, arguments)]
    print("| " + " | ".join(columns) + " |\n|---" + "|---:" * (len(columns) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row) + " |")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])


def compare(name: str, arguments: argparse.Namespace) -> list[tuple[object, ...]]:
    """Measure a workload; return one row per number of processes."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in arguments.processes}
    for _ in range(arguments.turns):
        for size in arguments.processes:
            found[size].append(measure([*COMMON, *WORKLOADS[name], f"rounds={arguments.rounds + 1}"], size))
    alone = median(one["seconds"] for one in found[min(found)])
    rows: list[tuple[object, ...]] = []
    for size, turns in found.items():
        middle = {key: median(turn[key] for turn in turns) for key in turns[0]}
        exchange = middle["meetings"] * middle["latency"] + middle["bytes"] / middle["bandwidth"]
        predicted = alone / (alone * middle["largest_share"] + exchange)
        traffic = (int(middle["added_up"]), int(middle["gathered"]), middle["memory_mb"], middle["meetings"])
        rows.append((name, size, middle["seconds"], alone / middle["seconds"], predicted, *traffic))
        print(f"{name}, {size} processes: {json.dumps(middle)}", file=sys.stderr)
    return rows


def measure(overrides: list[str], size: int) -> dict[str, float]:
    """Run a workload on `size` processes and return the figures that rank 0 prints."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command = [*launch, __file__, "--worker", json.dumps(overrides)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def memory(clients: int, size: int, rounds: int, more: list[str]) -> tuple[float, float, float, float]:
    """Run `size` processes with many clients.

    Returns:
        MB of memory in the last round: the most of a process, the sum of all; the largest sum at any time; and how long
        the first round took to come.
    """
    launch = [sys.executable, "-m", "fedsim"]
    if size > 1:
        launch[1:2] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "many_clients.py").write_text(MANY)
        Path(folder, "data").mkdir()
        Path(folder, "data", "many.yaml").write_text("_target_: many_clients.Many\nclients: 1\n")
        command = [*launch, "run", f"--config-dir={folder}", "--allow-module=many_clients", *LARGE]
        command += [f"data.clients={clients}", f"rounds={rounds}", f"hydra.run.dir={folder}/run", *more]
        paths = os.pathsep.join([folder, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths.strip(os.pathsep)}
        started, process = time.perf_counter(), subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        largest, last, first = 0.0, (0.0, 0.0), 0.0
        metrics = Path(folder, "run", "metrics.csv")
        while process.poll() is None:
            pids = children(process.pid) if size > 1 else [process.pid]
            found, total = [proportional(pid) for pid in pids], together(pids)
            largest = max(largest, total)
            done = metrics.read_text().count("\n") - 2 if metrics.exists() else 0  # the header and round 0
            first = first or (time.perf_counter() - started if done > 0 else 0.0)
            if 0 < done < rounds and len(found) == size and min(found) > 0:
                last = max(found), total
            time.sleep(0.1)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return *last, largest, first


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in found.read_text().split()] if found.exists() else []


def proportional(pid: int, *without: str) -> float:
    """MB of memory of a process, each page divided by the number of processes that map it; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    found = {line.split()[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.endswith("kB")}
    return found["Pss:"] - sum(found[f"{name}:"] for name in without)


def together(pids: list[int]) -> float:
    """MB of memory of some processes, what they share counted once, whether or not a process has touched it yet."""
    shared: dict[int, float] = {}
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                if os.readlink(file).startswith("/memfd:"):
                    about = file.stat()
                    shared[about.st_ino] = about.st_blocks * 512 / 1e6
    return sum(proportional(pid, "Pss_Shmem") for pid in pids) + sum(shared.values())


def work(overrides: list[str]) -> None:
    """Run the workload in one of the processes; rank 0 prints the largest figures of all."""
    import torch

    from fedsim.config import compose as config
    from fedsim.federation.prepare import initial_state, prepare
    from fedsim.federation.round import simulate
    from fedsim.parallel import division
    from fedsim.parallel import processes as distributed

    here = distributed.join()
    torch.set_num_threads(1)
    request = config.normalise(config.Request(tuple(overrides)))
    simulation = prepare(config.check_request(request)[0].experiment)
    from dataclasses import replace

    simulation = replace(simulation, world=here)
    seconds, shares = [], []
    state = initial_state(simulation)
    rounds = simulate(simulation, state)
    next(rounds)
    next(rounds)  # the first round that trains is not counted
    before = here.added_up, here.gathered, here.meetings
    for result in rounds:
        here.agree(state.row, [])  # as a run does after every round
        seconds.append(sum(result.seconds.values()))
        size = int(result.metrics["clients"] or 0)
        own = division.divide(here, torch.ones(size, dtype=torch.int64)).own  # all clients are equal here
        shares.append(1.0 if own is None else len(own) / size)
    now = here.added_up, here.gathered, here.meetings
    added, gathered, meetings = ((after - then) / len(seconds) for after, then in zip(now, before, strict=True))
    latency, bandwidth = exchange_speed(here)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    facts = {
        "seconds": median(seconds),
        "largest_share": median(shares),
        "added_up": added,
        "gathered": gathered,
        "meetings": meetings,
        "bytes": 2 * (here.size - 1) / here.size * added + gathered,
        "latency": latency,
        "bandwidth": bandwidth,
        "memory_mb": memory,
    }
    every = here.exchange(facts)
    if here.rank == 0:
        print(json.dumps({key: max(one[key] for one in every) for key in facts}))
    distributed.leave(0)


def exchange_speed(here: object) -> tuple[float, float]:
    """Seconds of a tiny exchange, and bytes per second of a large one."""
    import torch

    from fedsim.parallel.processes import World

    assert isinstance(here, World)
    if here.size == 1:
        return 0.0, float("inf")
    times = []
    for count, repeats in ((1, 200), (2_000_000, 10)):
        values = torch.zeros(count, dtype=torch.float64)
        here.add_up(values)
        started = time.perf_counter()
        for _ in range(repeats):
            here.add_up(values)
        times.append((time.perf_counter() - started) / repeats)
    return times[0], 2 * (here.size - 1) / here.size * 16e6 / times[1]


if __name__ == "__main__":
    main()
