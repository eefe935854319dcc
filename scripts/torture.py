"""Kill, damage and fill up runs of random settings, and check that nothing goes wrong without a word.

    python scripts/torture.py                            # five hundred cases
    python scripts/torture.py --cases 10000 --seed 7     # before a release
    python scripts/torture.py --kinds flip,fork --cases 50
    python scripts/torture.py --seed 7 --only 431        # one case again, with what was printed

Every case draws a tiny federation with a random combination of options that go together, and one of the mishaps below.
What must hold: a run that goes on has the ``metrics.csv`` of one without a mishap, byte for byte; or it is refused in
one line, with exit code 2 or 3. No traceback, no hang. Everything happens in forked children of one process, since
starting Python would take ten times as long as a run.
"""

from __future__ import annotations

import argparse
import csv
import errno
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedsim.cli import main as cli
from fedsim.config.compose import Request, check_request, list_options, normalise
from fedsim.errors import UserError
from fedsim.federation.prepare import prepare
from fedsim.recording.run_directory import CsvWriter
from fedsim.runs import resume, sweep  # noqa: F401  # imported once, before the children need it

BASE = (
    *("data=synthetic", "data.clients=6", "data.samples_per_client=4", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "model.hidden_size=2", "client.batch_size=2", "client.epochs=1"),
    *("device=cpu", "threads=1", "dtype=float64"),
)
SECONDS = 120
"""After which a command counts as hanging."""

GROUPS = (
    *("aggregator", "aggregator/combine", "aggregator/correction", "aggregator/server_optimizer", "client/optimizer"),
    *(
        "model",
        "partition",
        "sampler",
        "link/up",
        "link/down",
        "privacy",
        "schedule",
        "system",
        "personalize",
        "attack",
    ),
    *("aggregator/server_optimizer/schedule", "stop"),
)
NEEDS = {
    "attack=alie": ("attack.z=1",),
    "privacy=central_dp_adaptive": ("privacy.count_noise=5",),
    "sampler=power_of_choice": ("sampler.fraction=0.5",),
    "schedule=fedbuff": ("system=devices", "system.gflops_spread=2"),
    "schedule=fedasync": ("system=devices", "system.gflops_spread=2"),
    "system=devices": ("system.gflops_spread=2", "system.dropout=0.2"),
}
NUMBERS = (
    *("sampler.fraction=0.5", "client.lr_decay=0.9", "client.clip_norm=1", "model.num_layers=2", "model.dropout=0.3"),
    *("client.validation_fraction=0.3", "client.keep_optimizer_state=true", "aggregator.blocks=[recurrent]"),
    *("eval.validation_fraction=0.3", "eval.unseen_clients=2"),
    *("data.task=regression", "data.min_length=1", "stop.patience=2", "client.optimizer.lr=0.05"),
)


class Wrong(Exception):
    """What must not happen."""


@dataclass
class Ended:
    """How a command ended: its exit code (minus the signal that killed it), and what it printed."""

    code: int
    out: str
    err: str


@dataclass
class Case:
    """A random number generator, and a folder for everything."""

    draw: random.Random
    folder: Path
    talks: bool = False

    def call(self, *arguments: str, before: Callable[[], None] = lambda: None, clean: bool = True) -> Ended:
        """Run a command in a child, `before` first; `clean`: it must not have been killed, or have had a bug."""
        out, err = self.folder / "out", self.folder / "err"
        child = os.fork()
        if child == 0:
            _run_child(arguments, before, out, err)
        ended = Ended(_wait(child, arguments), out.read_text(errors="replace"), err.read_text(errors="replace"))
        if self.talks:
            print("fedsim", *arguments, f"-> {ended.code}\n{ended.err}", end="")
        if "Traceback" in ended.err or "Logging error" in ended.err or (clean and ended.code < 0):
            raise Wrong(f"fedsim {' '.join(arguments)} ended with {ended.code}: {ended.err[-2000:]}")
        if any(line and not line.startswith(("error: ", "warning: ", "note: ")) for line in ended.err.splitlines()):
            raise Wrong(f"fedsim {' '.join(arguments)} prints more than a line: {ended.err[-2000:]}")
        return ended

    def settings(self, *more: str) -> tuple[str, ...]:
        """A random combination of options that is accepted, and runs to its end."""
        options = list_options()
        for _ in range(200):
            chosen: list[str] = []
            for group in self.draw.sample(GROUPS, self.draw.randint(1, 4)):
                option = f"{group}={self.draw.choice([*options[group]])}"
                chosen += [option, *NEEDS.get(option, ())]
            chosen += self.draw.sample(NUMBERS, self.draw.randint(0, 2))
            chosen += [f"seed={self.draw.randrange(1000)}", f"eval.every={self.draw.randint(1, 3)}", *more]
            if not any(text.startswith("partition=") for text in chosen):
                chosen.append("partition=natural")
            try:
                prepare(check_request(normalise(Request((*BASE, *chosen))))[0].experiment)
            except UserError:
                continue
            return (*BASE, *chosen)
        raise Wrong("no combination of options was accepted")

    def path(self, name: str) -> Path:
        return self.folder / name


def _run_child(arguments: tuple[str, ...], before: Callable[[], None], out: Path, err: Path) -> None:
    code: Any = 1
    try:
        for number, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        sys.argv = ["fedsim", *arguments]
        before()
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(int(code))


def _wait(child: int, arguments: tuple[str, ...]) -> int:
    deadline = time.monotonic() + SECONDS
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Wrong(f"fedsim {' '.join(arguments)} hangs")
        time.sleep(0.002)


def rows_of(directory: Path) -> bytes:
    return (directory / "metrics.csv").read_bytes()


# ---------------------------------------------------------------------------------------------------------------------
# mishaps: each is a function of a case that returns how it ended, in a word


def _whole(case: Case, *more: str) -> tuple[tuple[str, ...], int]:
    """A run without a mishap, in the folder ``whole``: its overrides, and its exit code (0, or 3 if it diverged)."""
    every = case.draw.choice((1, 1, 2, 3))
    settings = case.settings(f"rounds={case.draw.randint(3, 6)}", f"checkpoint.every={every}", "console=none", *more)
    ended = case.call("run", *settings, f"hydra.run.dir={case.path('whole')}")
    if ended.code not in (0, 3):
        raise Wrong(f"{' '.join(settings)}: {ended.code} {ended.err}")
    return settings, ended.code


def _dying_at(step: int) -> Callable[[], None]:
    """Let the process kill itself at its `step`-th row, sync, rename or deletion."""

    def patch() -> None:
        left = [step]

        def count() -> bool:
            left[0] -= 1
            return left[0] == 0

        def dying(original: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if count():
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return call

        append = CsvWriter._append

        def half_a_row(self: CsvWriter, content: bytes) -> None:
            if count():
                self._file.write(content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, content)

        os.fsync, Path.replace, Path.unlink = dying(os.fsync), dying(Path.replace), dying(Path.unlink)  # type: ignore[method-assign]
        CsvWriter._append = half_a_row  # type: ignore[method-assign]

    return patch


def _must_be(one: Path, other: Path, settings: tuple[str, ...]) -> None:
    if rows_of(one) != rows_of(other):
        raise Wrong(f"{' '.join(settings)}: other bytes than without the mishap")


def _go_on(case: Case, settings: tuple[str, ...], code: int) -> None:
    """Resume the folder ``run`` to its end; if nothing was written yet, run it anew."""
    run = case.path("run")
    if (run / "config.yaml").exists():
        ended = case.call("resume", str(run))
    else:
        shutil.rmtree(run, ignore_errors=True)
        ended = case.call("run", *settings, f"hydra.run.dir={run}")
    if ended.code != code:
        raise Wrong(f"{' '.join(settings)}: resumed with {ended.code} instead of {code}: {ended.err}")
    _must_be(run, case.path("whole"), settings)


def kill(case: Case) -> str:
    """Killed at a random step, and perhaps while it is resumed."""
    settings, code = _whole(case)
    run, times = case.path("run"), 0
    ended = case.call("run", *settings, f"hydra.run.dir={run}", before=_dying_at(case.draw.randint(1, 40)), clean=False)
    times += ended.code < 0
    while case.draw.random() < 0.4 and (run / "config.yaml").exists():
        ended = case.call("resume", str(run), before=_dying_at(case.draw.randint(1, 30)), clean=False)
        times += ended.code < 0
    _go_on(case, settings, code)
    return f"killed {min(times, 2)}{'+' if times > 1 else ''} times"


def fork(case: Case) -> str:
    """A fork that is killed at a random step."""
    settings, _ = _whole(case)
    source, half = case.path("whole"), case.path("half")
    rounds = next(int(text.partition("=")[2]) for text in settings if text.startswith("rounds=")) + 2
    changes = (f"rounds={rounds}", f"client.batch_size={case.draw.choice((1, 3))}")
    good = case.call("resume", str(source), *changes, f"hydra.run.dir={case.path('fork')}")
    killed = case.call(
        *("resume", str(source), *changes, f"hydra.run.dir={half}"),
        before=_dying_at(case.draw.randint(1, 40)),
        clean=False,
    )
    if good.code not in (0, 3):
        return "refused"
    again = not (half / "config.yaml").exists()
    if again:
        ended = case.call("resume", str(source), *changes, f"hydra.run.dir={half}")
    else:
        ended = case.call("resume", str(half))
    if ended.code != good.code:
        raise Wrong(f"{' '.join(settings)}: a fork killed early ends with {ended.code}: {ended.err}")
    _must_be(half, case.path("fork"), settings)
    return "made again" if again else "resumed" if killed.code < 0 else "not reached"


def _interrupted(case: Case) -> tuple[tuple[str, ...], int]:
    """A run that was killed in the middle, in the folder ``run``."""
    settings, code = _whole(case, "checkpoint.every=1")
    case.call(
        *("run", *settings, f"hydra.run.dir={case.path('run')}"),
        before=_dying_at(case.draw.randint(20, 45)),
        clean=False,
    )
    return settings, code


def _damaged(case: Case, settings: tuple[str, ...], code: int) -> str:
    ended = case.call("resume", str(case.path("run")))
    if ended.code == code:
        _must_be(case.path("run"), case.path("whole"), settings)
        return "started over" if "starting over" in ended.err else "fell back" if ended.err else "unharmed"
    if ended.code not in (2, 3) or ended.err.count("error: ") != 1:
        raise Wrong(f"{' '.join(settings)}: {ended.code} {ended.err}")
    return "refused"


def flip(case: Case) -> str:
    """A flipped bit in a checkpoint."""
    settings, code = _interrupted(case)
    files = sorted(case.path("run").glob("checkpoints/*.safetensors"))
    if not files:
        return "no checkpoint"
    file = files[-1]
    content = bytearray(file.read_bytes())
    content[case.draw.randrange(len(content))] ^= 1 << case.draw.randrange(8)
    file.write_bytes(content)
    return _damaged(case, settings, code)


def damage(case: Case) -> str:
    """A file of the run that is cut, emptied, overwritten, or deleted."""
    settings, code = _interrupted(case)
    files = sorted(path for path in case.path("run").rglob("*") if path.is_file() and ".hydra" not in path.parts)
    if not files:
        return "no file"
    file = case.draw.choice(files)
    content, how = file.read_bytes(), case.draw.choice(("cut", "empty", "garbage", "deleted", "middle"))
    if how == "deleted":
        file.unlink()
    elif how == "middle":  # a block of the file, as a disk loses it
        at = case.draw.randrange(len(content) + 1)
        file.write_bytes(content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :])
    else:
        kept = {"cut": content[: case.draw.randrange(len(content) + 1)], "empty": b""}
        file.write_bytes(kept.get(how, case.draw.randbytes(200)))
    if not (case.path("run") / "config.yaml").exists():
        ended = case.call("resume", str(case.path("run")))
        if ended.code != 2:
            raise Wrong(f"without config.yaml: {ended.code} {ended.err}")
        return "refused"
    return _damaged(case, settings, code)


def full(case: Case) -> str:
    """A disk that is full at a random step, or takes no large files."""
    settings, code = _whole(case)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def without_room() -> None:
        left, sync = [step], os.fsync

        def failing(descriptor: int) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        os.fsync = failing

    limit, step = case.draw.randint(2_300, 6_000), case.draw.randint(1, 12)
    before = case.draw.choice((limited, without_room))
    ended = case.call("run", *settings, f"hydra.run.dir={case.path('run')}", before=before)
    if ended.code == code:
        return "enough room"
    if ended.code != 1 or ended.err.count("error: ") != 1:
        raise Wrong(f"{' '.join(settings)}: {ended.code} {ended.err}")
    if (case.path("run") / "config.yaml").exists() and not (case.path("run") / "metrics.csv").exists():
        case.call("resume", str(case.path("run")), before=before)
    _go_on(case, settings, code)
    return "failed, then resumed"


def interrupt(case: Case) -> str:
    """A signal after a random row, perhaps two."""
    settings, code = _whole(case)
    number = case.draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    row, times = case.draw.randint(1, 4), case.draw.choice((1, 1, 2))

    def raising() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        write = CsvWriter.write
        left = [2 * row]  # timing.csv has as many

        def then(self: CsvWriter, values: Any) -> None:
            write(self, values)
            left[0] -= 1
            if left[0] == 0:
                for _ in range(times):
                    signal.raise_signal(number)

        CsvWriter.write = then  # type: ignore[method-assign]

    ended = case.call("run", *settings, f"hydra.run.dir={case.path('run')}", before=raising)
    if ended.code not in (code, 128 + number):
        raise Wrong(f"{' '.join(settings)}: {ended.code} {ended.err}")
    _go_on(case, settings, code)
    return "interrupted" if ended.code != code else "done before"


def engines(case: Case) -> str:
    """The same settings under both engines: the same numbers, to rounding."""
    settings = case.settings("rounds=3", "checkpoint=none", "console=none")
    codes = []
    for engine in ("stacked", "sequential"):
        ended = case.call("run", *settings, f"engine={engine}", f"hydra.run.dir={case.path(engine)}")
        codes.append(ended.code)
    if codes[0] != codes[1] or codes[0] not in (0, 3):
        raise Wrong(f"{' '.join(settings)}: ended with {codes}: {ended.err}")
    tables = [list(csv.reader(rows_of(case.path(name)).decode().splitlines())) for name in ("stacked", "sequential")]
    if [len(table) for table in tables] != [len(tables[0])] * 2 or tables[0][0] != tables[1][0]:
        raise Wrong(f"{' '.join(settings)}: other rows or columns")
    for one, other in zip(*(table[1:] for table in tables), strict=True):
        for name, a, b in zip(tables[0][0], one, other, strict=True):
            if a != b and not (a and b and math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=1e-9)):
                raise Wrong(f"{' '.join(settings)}: {name} is {a} and {b} in round {one[0]}")
    return "the same" if codes[0] == 0 else "both diverged"


KINDS: dict[str, Callable[[Case], str]] = {
    each.__name__: each for each in (kill, fork, flip, damage, full, interrupt, engines)
}


# ---------------------------------------------------------------------------------------------------------------------


def one_case(seed: int, number: int, kinds: list[str], talks: bool = False) -> tuple[str, str]:
    """Its kind, and how it ended. The settings and the mishap are those of the seed and the number, whatever else runs.

    Raises:
        Wrong: if something went wrong without a word, or with too many.
    """
    draw = random.Random(f"{seed} {number}")  # noqa: S311  # cases, not secrets
    kind = kinds[number % len(kinds)]
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        try:
            return kind, KINDS[kind](Case(draw, Path(folder), talks))
        except Wrong as wrong:
            raise Wrong(f"case {number} ({kind}): {wrong}") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this case alone, with what its commands print")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    if unknown := sorted({*kinds} - {*KINDS}):
        parser.error(f"--kinds {','.join(unknown)}: must be of {','.join(KINDS)}")
    torch.set_num_threads(1)
    found: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    failures, started = 0, time.monotonic()
    for number in range(given.cases) if given.only is None else [given.only]:
        if number % 100 == 0 and given.only is None:
            print(f"{number} cases, {failures} went wrong", file=sys.stderr)
        try:
            kind, ended = one_case(given.seed, number, kinds, given.only is not None)
            found[kind][ended] += 1
        except Wrong as wrong:
            failures += 1
            print(wrong, flush=True)
    print("| mishap | cases | how they ended |\n|---|---|---|")
    for kind, endings in found.items():
        words = ", ".join(f"{ended} {count}" for ended, count in endings.most_common())
        print(f"| {kind} | {endings.total()} | {words} |")
    print(f"{failures} went wrong, in {time.monotonic() - started:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
