"""How fast fedsim simulates, compared with a plain PyTorch loop and other simulators in the same run.

    python scripts/benchmark.py                                    # the five workloads, fedsim against the loop
    python scripts/benchmark.py --workload W1 W4 --repeats 9
    python scripts/benchmark.py --workload W1:cohort=100,hidden=128    # W1 with other values
    python scripts/benchmark.py --peer functional --peer jax=~/venvs/jax/bin/python
    python scripts/benchmark.py --peer flower=~/venvs/flower/bin/python --csv results.csv --plot results.png
    python scripts/benchmark.py --from results.csv --plot results.png     # draw it again
    python scripts/benchmark.py --check                            # do all of them reach the same loss?
    python scripts/benchmark.py --profile --workload W2            # where does the time of a round go?

Workloads (random data, weighted FedAvg, no evaluation; `bench/workloads.py` has the numbers): W1 and W2 are many
small GRUs, W3 is next-character prediction by a large LSTM, W4 is a regression by a few 2-layer GRUs with Adam, and W5
predicts one of 10,004 words, as phone keyboards do (minutes, with the loop).

Each contender is a separate process that stays alive. They take turns of half a second, at least one round, while the
rest sleep, so that a slow phase of the machine affects all of them. The loop (and peers like it) runs with one thread
and with all of them, and the faster counts. GFLOP/s are those of the model's matrix products, forward and backward, per
second of the whole round. Two other contenders say what the machine can do: a large matrix product by torch, and
multiply-adds in registers alone (`bench/peak.py`), the peak that nothing exceeds. Times are noisy on a shared machine:
the table shows medians, and ratios within one run say more than its seconds.

A peer is a script `peers/NAME.py`: another simulator, or what one would write for the experiment with `torch.func`,
TorchRL or JAX. `--peer NAME=PYTHON` runs it with the Python of the peer's own environment, `--peer NAME` with this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles

from bench import report
from bench.measure import Contender, Failed, Start, Worker, fresh_start, interleaved, rounds_needed
from bench.workloads import WORKLOADS, Spec, Workload, parse

FEDSIM = Contender("fedsim", "bench.ours")
LOOP = Contender("loop", "bench.plain")
MATMUL = Contender("matrix product", "bench.matmul")
MATMUL_FLOPS = 2 * 2048**3
PEAK_OF_ONE = Contender("peak of one core", "bench.peak")
PEAK = Contender("peak", "bench.peak")
CHECK_ROUNDS = 2
THREADED = (LOOP.name, "fluke", "functional", "jax", "pfl", "torchrl")
"""The contenders that run with any number of threads, where one may be faster than many."""


def peer(text: str) -> Contender:
    """Read ``NAME=PYTHON``, or ``NAME`` for this Python."""
    name, separator, python = text.partition("=")
    known = sorted(file.stem for file in (Path(__file__).parent / "peers").glob("[a-z]*.py"))
    if name not in known or (separator and not python):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME or NAME=PYTHON, with NAME one of {', '.join(known)}")
    path = Path(python or sys.executable).expanduser()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no {path}")
    return Contender(name, f"peers.{name}", str(path.absolute()))


def named_workload(text: str) -> tuple[str, Workload]:
    """Read a workload; keep the text that names it."""
    try:
        return text, parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def spec_of(w: Workload, rounds: int, options: argparse.Namespace) -> Spec:
    """The spec of fedsim's run."""
    return Spec(w, rounds, options.threads, options.device, options.kernels)


@dataclass(frozen=True)
class Speeds:
    """What the machine can do, in GFLOP/s.

    Attributes:
        matmul: of a large matrix product on all threads.
        peak: of multiply-adds in registers on as many cores as there are threads; NaN on a GPU.
    """

    matmul: float
    peak: float


def measure(
    name: str, w: Workload, peers: Sequence[Contender], options: argparse.Namespace
) -> tuple[list[report.Row], Speeds]:
    """Time all contenders on one workload; return their rows and the machine's speeds."""
    threads = options.threads or os.cpu_count() or 1
    rounds = rounds_needed(options.repeats, options.warm_up)
    ours = spec_of(w, rounds, options)
    one, many = replace(ours, threads=1), replace(ours, threads=threads)
    machine = [(MATMUL, many)]
    if options.device == "cpu":
        machine += [(PEAK, many)] if threads == 1 else [(PEAK_OF_ONE, one), (PEAK, many)]
    lanes = [(FEDSIM, ours)]
    for contender in (LOOP, *peers):
        if contender.name not in THREADED:
            lanes.append((contender, ours))
        else:
            lanes += [(contender, spec) for spec in ([many] if threads == 1 else [one, many])]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(contender, spec)) for contender, spec in machine + lanes]
        times = interleaved(workers, options.repeats, options.warm_up)
    speeds = speeds_of(name, threads, times[: len(machine)])

    best: dict[str, tuple[float, Contender, Spec]] = {}
    for (contender, spec), own in zip(lanes, times[len(machine) :], strict=True):
        if not own:
            print(f"{name}: {contender.name} with {spec.threads} thread(s) is too slow to time", flush=True)
            continue
        who, taken = contender.name, median(own)
        if who in THREADED:
            print(f"{name}: {who} with {spec.threads} thread(s) {taken:.4f} s", flush=True)
        if who not in best or taken < best[who][0]:
            best[who] = (taken, contender, spec)
    rows = []
    for who, (taken, contender, spec) in best.items():
        start = Start(float("nan"), float("nan"))
        if options.starts:
            start = fresh_start(contender, spec, options.starts)
        gflops = w.flops_per_round / taken / 1e9
        ratio = best[LOOP.name][0] / taken
        shares = gflops / speeds.matmul, gflops / speeds.peak
        rows.append(report.Row(name, who, taken, gflops, ratio, *shares, start.peak_rss_mb, start.seconds))
    return rows, speeds


def speeds_of(name: str, threads: int, times: Sequence[Sequence[float]]) -> Speeds:
    """Print and return the machine's speeds, from the seconds of the matrix product and of the peak's loops."""
    matmul, *peak = times
    speed = MATMUL_FLOPS / median(matmul) / 1e9
    spread = ""
    if len(matmul) > 1:
        low, _, high = quantiles(matmul, n=4)
        noise = (high - low) / median(matmul)
        spread = f" (middle half of its times within {noise:.0%}; more than 10% means a busy machine)"
    print(f"{name}: matrix product {speed:.0f} GFLOP/s{spread}", flush=True)
    if not peak:
        return Speeds(speed, float("nan"))
    from bench.peak import FLOPS_PER_CORE

    alone, together = (cores * FLOPS_PER_CORE / median(own) / 1e9 for cores, own in ((1, peak[0]), (threads, peak[-1])))
    all_cores = "" if threads == 1 else f", {together:.0f} with {threads} threads"
    print(f"{name}: multiply-adds {alone:.0f} GFLOP/s on one core{all_cores}", flush=True)
    return Speeds(speed, together)


def command_line_start(w: Workload, repeats: int) -> str | None:
    """Time ``fedsim run`` from launch to exit: one round, two evaluations and the record; None for tokens."""
    if w.vocabulary or w.task == "sequence_labelling":
        return None
    outputs = f"data.outputs={w.outputs}" if w.task == "regression" else f"data.classes={w.outputs}"
    overrides = [
        *("data=synthetic", f"data.task={w.task}", f"data.clients={w.clients}", f"data.samples_per_client={w.samples}"),
        *("data.test_samples_per_client=1", f"data.length={w.steps}", f"data.features={w.features}", outputs),
        *("partition=natural", f"model={w.cell}", f"model.hidden_size={w.hidden}", f"model.num_layers={w.layers}"),
        *(f"client/optimizer={w.optimizer}", f"client.optimizer.lr={w.lr}", f"client.batch_size={w.batch_size}"),
        *(f"client.epochs={w.epochs}", f"sampler.cohort_size={w.cohort}", "rounds=1", "device=cpu"),
    ]
    seconds, memory = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            arguments = [sys.executable, "-m", "fedsim", "run", *overrides, f"hydra.run.dir={folder}/run"]
            started = time.perf_counter()
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, cwd=folder)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise Failed(f"fedsim run {' '.join(overrides)} ended with exit code {process.returncode}")
            seconds.append(time.perf_counter() - started)
            memory.append(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
    return f"fedsim run, launch to exit after one round: {median(seconds):.1f} s, {median(memory):.0f} MB"


def check(name: str, w: Workload, peers: Sequence[Contender], options: argparse.Namespace) -> bool:
    """Print whether fedsim, the loop and the peers compute the same; return whether they do, to rounding.

    The loop is given fedsim's cohorts and batch orders. Peers have their own, so they are compared on full batches of
    all clients, where neither matters.
    """
    from bench.ours import compare_with_loop
    from bench.plain import Model, mean_loss, tensors

    apart = compare_with_loop(spec_of(w, CHECK_ROUNDS, options))
    print(
        f"{name}: fedsim and loop after {CHECK_ROUNDS} rounds, relative difference of losses {apart['loss']:.1e}, "
        f"of the models' change {apart['weights']:.1e}; operations counted agree: {apart['flops'] == 1}",
        flush=True,
    )
    fine = apart["loss"] < 1e-4 and apart["weights"] < 1e-2 and apart["flops"] == 1
    if peers:
        full = w.full_batch()
        spec = spec_of(full, CHECK_ROUNDS, options)
        ours = _final_loss(FEDSIM, spec)
        moved = abs(ours - mean_loss(full, Model(full), *tensors(full)))
        print(
            f"{name}: full batches of all clients, final loss of fedsim {ours:.7f}, {moved:.7f} from the first model's"
        )
        for contender in peers:
            theirs = _final_loss(contender, spec)
            share = abs(theirs - ours) / moved
            print(f"{name}: of {contender.name} {theirs:.7f}, apart by {share:.1e} of that way", flush=True)
            fine = fine and share < 1e-2
    return fine


def _final_loss(contender: Contender, spec: Spec) -> float:
    with Worker(contender, spec) as worker:
        for _ in range(spec.rounds):
            worker.turn()
        return worker.loss()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [(name, w) for name, w in WORKLOADS.items()]
    parser.add_argument("--workload", nargs="+", type=named_workload, default=every, metavar="NAME[:KEY=VALUE,...]")
    parser.add_argument("--peer", action="append", type=peer, default=[], metavar="NAME[=PYTHON]")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each contender (default 5)")
    parser.add_argument("--warm-up", type=int, default=2, help="untimed rounds first, at least 1 (default 2)")
    parser.add_argument("--starts", type=int, default=3, help="fresh processes for memory and first round (default 3)")
    parser.add_argument("--threads", type=int, help="of fedsim, and at most of the loop (default: all)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of fedsim and the loop (default cpu)")
    parser.add_argument(
        "--kernels", default="auto", choices=("auto", "numba", "torch", "cuda_graphs"), help="of fedsim"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a bar chart (needs matplotlib)")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="table", help="draw what --csv wrote, measure nothing"
    )
    parser.add_argument("--check", action="store_true", help="compare losses instead of times")
    parser.add_argument("--profile", action="store_true", help="show where fedsim's time goes, instead of times")
    options = parser.parse_args(argv)
    if min(options.repeats, options.warm_up) < 1 or options.starts < 0:
        parser.error("--repeats and --warm-up must be at least 1, --starts at least 0")
    if options.table and not options.plot:
        parser.error("--from: needs --plot")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = arguments(argv)
    if options.plot:
        report.pyplot()  # fail now, not after an hour, if matplotlib is missing
    if options.table:
        rows = report.read_csv(options.table)
        speeds = {row.workload: row.gflops / row.fraction_of_matmul for row in rows if row.fraction_of_matmul > 0}
        draw(options.plot, rows, speeds)
        return 0
    print(report.machine(), flush=True)
    if options.check:
        verdicts = [check(name, w, options.peer, options) for name, w in options.workload]
        return 0 if all(verdicts) else 1
    if options.profile:
        from bench.stages import profile

        for name, w in options.workload:
            print(f"{name}: {profile(spec_of(w, options.repeats, options))}\n", flush=True)
        return 0
    rows, speeds = [], {}
    for name, w in options.workload:
        own, machine = measure(name, w, options.peer, options)
        speeds[name] = machine.matmul
        rows += own
        start = command_line_start(w, options.starts) if options.starts and options.device == "cpu" else None
        if start:
            print(f"{name}: {start}", flush=True)
        if options.csv:
            report.write_csv(options.csv, rows)
    print(f"\n{report.table(rows)}")
    if options.plot:
        draw(options.plot, rows, speeds)
    return 0


def draw(file: Path, rows: Sequence[report.Row], speeds: dict[str, float]) -> None:
    """Draw the rows, with what each workload is on the axis."""
    report.bar_chart(file, rows, speeds, {row.workload: parse(row.workload).in_words() for row in rows})


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"benchmark: {error}")
