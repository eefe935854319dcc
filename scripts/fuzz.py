"""Files from strangers, thousands of them: none may end in a traceback, hang, or touch a file outside.

    python scripts/fuzz.py                      # a thousand cases, about five minutes
    python scripts/fuzz.py --cases 10000 --seed 1
    python scripts/fuzz.py --only config --cases 1 --seed 4711   # one case again, as the report names it

Each case takes something valid (a table, a folder of configs, the directory of a run or a sweep), changes it at random
(bytes, values, links, pipes) and gives it to a command, in a folder of its own. Values in a checkpoint are changed with
its digests, so that what comes after their check is reached. What counts against fedsim: an exception that is not
reported in one line, an exit code other than those documented, more than `SECONDS`, a change to the files that lie
beside the folder, or a secret of the environment in what is printed or written.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save

from fedsim.cli import main as cli
from fedsim.data.source import load_dataset
from fedsim.runs import checkpoints

SECONDS = 30
CODES = (0, 1, 2, 3, 4, 130, 143)
SECRET = "s3cr3t-of-the-environment"  # noqa: S105  # stands for one
SMALL = (
    *("model.hidden_size=2", "rounds=2", "engine.kernels=torch", "device=cpu", "threads=1", "console=none"),
    *("client.epochs=1", "checkpoint.every=1"),
)
SYNTHETIC = (
    *("data=synthetic", "data.clients=3", "data.samples_per_client=4", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=natural"),
)
TABLE = "key,time,x,y\n" + "".join(
    f"{key},2024-01-{day:02d},{day * 1.5},{day % 3}\n" for key in "ab" for day in range(1, 29)
)
CONFIG = "# Mine\n_target_: fedsim.data.synthetic.Synthetic\ntask: classification\nclients: 3\nlength: 3\nfeatures: 2\n"
WORDS = (
    *("${oc.env:FEDSIM_FUZZ_SECRET}", "${now:%Y}", "${hydra:runtime.cwd}", "!!python/object/apply:os.system [id]"),
    *(
        "os.system",
        "builtins.eval",
        "fedsim.cli.main.main",
        "../../canary",
        "/dev/zero",
        "~/x",
        "null",
        ".nan",
        "-.inf",
    ),
    *(
        "1e400",
        "9" * 320,
        "[1, 2",
        "{a: 1}",
        "&a [*a]",
        "*b",
        "'",
        '"',
        "\x1b[31m",
        "\u202e",
        "=cmd()",
        "$\\frac{$",
        "yes",
    ),
    *("-1", "0", "2000000000", "1.5", "true", "???", "", "a: b: c", "---", "${", "@package _global_", "<<: {a: 1}"),
)


@dataclass
class Report:
    """What came of the cases: how many ended with which code, and what counts against fedsim."""

    codes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes or words, cut, repeat or swap pieces."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.choice(WORDS).encode() + data[at:]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            piece = data[at : at + rng.randrange(1, 60)]
            data = data[:at] + piece * rng.choice((2, 3, 50)) + data[at:]
        elif kind == 4:
            end = min(len(data), at + rng.randrange(1, 40))
            data = data[:at] + data[end:]
        elif kind == 5:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = b"\n".join(lines)
        else:
            lines = data.split(b"\n")
            which = rng.randrange(len(lines))
            name, mark, _ = lines[which].partition(b":")
            lines[which] = name + mark + b" " + rng.choice(WORDS).encode()
            data = b"\n".join(lines)
    return data


HOSTILE: tuple[Any, ...] = (
    *(None, True, "", "x", [], {}, [1], {"a": 1}, -1, 0, 1.5, 1e308, 10**30, 10**400, float("nan"), float("inf")),
    *(
        [[[[[]]]]],
        "${oc.env:FEDSIM_FUZZ_SECRET}",
        "../../canary/a.txt",
        "a\nb",
        "\x1b[31m",
        "fedsim.cli.main.main",
        2**63,
    ),
)
"""Values of which most are of a wrong type or size, wherever they are put."""


def another(content: Any, rng: random.Random) -> Any:
    """Plain data in which one value, at any depth, is replaced, dropped or added."""
    if isinstance(content, dict) and content and rng.random() < 0.85:
        name = rng.choice(sorted(content, key=str))
        kind = rng.random()
        if kind < 0.1:
            return {key: value for key, value in content.items() if key != name}
        if kind < 0.15:
            return content | {"extra": rng.choice(HOSTILE)}
        return content | {name: another(content[name], rng)}
    if isinstance(content, list) and content and rng.random() < 0.6:
        place = rng.randrange(len(content))
        return [*content[:place], another(content[place], rng), *content[place + 1 :]]
    return rng.choice(HOSTILE)


def changed(file: Path, rng: random.Random) -> bytes:
    """The content of a file of a run in which something else stands for a byte or, if its format is known, a value."""
    content = file.read_bytes()
    if rng.random() < 0.4:
        return mutated(content, rng)
    if file.suffix == ".json":
        return json.dumps(another(json.loads(content), rng)).encode()
    if file.suffix == ".yaml":
        return yaml.safe_dump(another(yaml.safe_load(content), rng), sort_keys=False).encode()
    if file.suffix == ".safetensors":
        return another_checkpoint(file, rng)
    return mutated(content, rng)


def another_checkpoint(file: Path, rng: random.Random) -> bytes:
    """A whole checkpoint with right digests, of which a value or a tensor is another."""
    with safe_open(file, framework="pt") as opened:
        facts = json.loads(opened.metadata()["fedsim"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    facts.pop("digest")
    if rng.random() < 0.3:
        name = rng.choice(sorted(tensors))
        value = tensors.pop(name)
        others = (
            *(value.double(), value.long(), value.reshape(-1)[:0], value.reshape(-1), value[None], value * 0 - 5),
            *(value.float() * torch.nan, value.float() + torch.inf, None),
        )
        other = rng.choice(others)
        tensors |= {} if other is None else {name: other.contiguous()}
        facts["tensors"] = checkpoints._digest(tensors)
    else:
        facts = another(facts, rng)
    text = json.dumps(facts)
    return bytes(save(tensors, metadata={"fedsim": checkpoints._sealed(text) if text.endswith("}") else text}))


def a_table(folder: Path, rng: random.Random, valid: Path) -> list[str]:
    """A damaged table, read with a few settings."""
    (folder / "t.csv").write_bytes(mutated(TABLE.encode(), rng))
    settings = ["data=csv", "data.path=t.csv", f"data.target_column={rng.choice(('y', 'x', 'key'))}", "data.window=4"]
    optional = (
        "data.client_column=key",
        "data.time_column=time",
        "data.missing=mask",
        "data.gaps=ignore",
        "data.sort=true",
    )
    settings += [f"data.{text}" for text in optional if rng.random() < 0.5]
    settings += rng.choice(([], ["data.task=regression"], ["data.task=classification"]))
    return rng.choice((["partition", *settings], ["run", *settings, "num_clients=2", *SMALL]))


def a_config(folder: Path, rng: random.Random, valid: Path) -> list[str]:
    """A stranger's folder of configs, of which an option is chosen."""
    (folder / "configs" / "data").mkdir(parents=True)
    (folder / "configs" / "data" / "mine.yaml").write_bytes(mutated(CONFIG.encode(), rng))
    if rng.random() < 0.3:
        (folder / "configs" / "experiment").mkdir()
        text = "# @package _global_\ndefaults:\n  - override /data: mine\nname: x\nrounds: 1\ntags: [a, '${name}']\n"
        text += rng.choice(
            ("", "hydra: {run: {dir: 'outputs/${name}'}}\n", "client: {epochs: 1, optimizer: {lr: 0.1}}\n")
        )
        (folder / "configs" / "experiment" / "theirs.yaml").write_bytes(mutated(text.encode(), rng))
        return ["run", "experiment=theirs", "--config-dir", "configs", *SMALL]
    return ["run", "data=mine", "--config-dir", "configs", "partition=iid", "num_clients=2", *SMALL]


def a_run(folder: Path, rng: random.Random, valid: Path) -> list[str]:
    """A stranger's run, in which a file was changed or is not a file at all."""
    shutil.copytree(valid / "run", folder / "run")
    change_files(folder / "run", rng)
    command = rng.choice(("resume", "resume", "resume", "evaluate", "export", "compare", "report", "fork", "begin"))
    if command == "begin":
        return ["run", *SYNTHETIC, *SMALL, "init_from=run"]
    if command == "fork":
        return ["resume", "run", "rounds=3", "client.optimizer.lr=0.1", "hydra.run.dir=fork"]
    return [command, "run", *(["rounds=3"] if command == "resume" else [])]


def a_sweep(folder: Path, rng: random.Random, valid: Path) -> list[str]:
    """A stranger's sweep, in which files were changed."""
    shutil.copytree(valid / "sweep", folder / "sweep")
    change_files(folder / "sweep", rng)
    again = ["run", "-m", *SYNTHETIC, *SMALL, "seed=1,2", "rounds=3", "--resume", "sweep"]
    return rng.choice(
        (again, again, ["compare", "sweep"], ["report", "sweep"], ["resume", "sweep"], ["compare", "sweep", "--json"])
    )


def change_files(folder: Path, rng: random.Random) -> None:
    """Change a file or two of a folder, or put something else in its place."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in rng.sample(files, rng.choice((1, 1, 2))):
        kind = rng.random()
        if kind < 0.75:
            file.write_bytes(changed(file, rng))
            continue
        file.unlink()
        if kind < 0.87:
            file.symlink_to(folder.parent / "canary" / rng.choice(("a.txt", "b.csv", "missing")))
        elif kind < 0.93:
            os.mkfifo(file)
        elif kind < 0.97:
            file.mkdir()


KINDS: dict[str, Callable[[Path, random.Random, Path], list[str]]] = {
    "table": a_table,
    "config": a_config,
    "run": a_run,
    "sweep": a_sweep,
}


class TooLongError(BaseException):
    """The time for a case is over."""


def call(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code and all that it printed.

    Raises:
        BaseException: whatever is not reported as it should be.
    """
    out, err = io.StringIO(), io.StringIO()
    load_dataset.cache_clear()
    sys.argv = ["fedsim", *arguments]

    def over(*_: object) -> None:
        raise TooLongError

    def hangs() -> None:  # in code that no signal reaches, such as the reading of a pipe by a library
        print(f"hangs for good: {' '.join(arguments)} in {os.getcwd()}", file=sys.__stderr__, flush=True)
        os._exit(1)

    watchdog = threading.Timer(2 * SECONDS, hangs)
    watchdog.daemon = True
    watchdog.start()
    signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return code, out.getvalue() + err.getvalue()
    finally:
        signal.alarm(0)
        watchdog.cancel()
    return 0, out.getvalue() + err.getvalue()


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What lies in a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def case(kind: str, seed: int, place: Path, valid: Path, report: Report) -> None:
    """Make and run one case, and note what came of it."""
    rng = random.Random(f"{kind} {seed}")  # noqa: S311  # a case can be run again
    folder = place / "case"
    folder.mkdir()
    before = tree(place / "canary")
    name = f"--only {kind} --cases 1 --seed {seed}"
    arguments = KINDS[kind](folder, rng, valid)
    os.chdir(folder)
    try:
        code, printed = call(arguments)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        report.findings.append(
            f"{name}: {type(error).__name__} at {Path(last.filename).name}:{last.lineno} ({error})"[:300]
        )
        code, printed = -1, ""
    finally:
        os.chdir(place)
    report.codes[str(code)] += 1
    if code not in (*CODES, -1):
        report.findings.append(f"{name}: exit code {code}")
    if "Traceback" in printed:
        lines = [line for line in printed.splitlines() if line.strip()]
        report.findings.append(f"{name}: a traceback, {lines[-1].strip()}"[:300])
    if tree(place / "canary") != before:
        report.findings.append(f"{name}: files beside the folder were changed")
        shutil.rmtree(place / "canary")
        canary(place)
    written = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    if SECRET in printed or any(SECRET.encode() in path.read_bytes() for path in written):
        report.findings.append(f"{name}: a secret of the environment came out")
    shutil.rmtree(folder)


def canary(place: Path) -> None:
    """Files that nobody may touch."""
    (place / "canary").mkdir()
    for name in ("a.txt", "b.csv"):
        (place / "canary" / name).write_text("untouched\n")


@contextlib.contextmanager
def a_place() -> Iterator[Path]:
    """A temporary folder with the files that nobody may touch, the process's settings put back afterwards."""
    here, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        canary(place)
        os.environ |= {"FEDSIM_FUZZ_SECRET": SECRET, "FEDSIM_CACHE_DIR": str(place / "cache")}
        try:
            yield place
        finally:
            os.chdir(here)
            sys.argv = argv
            os.environ.clear()
            os.environ.update(environment)


def fuzz(kinds: Sequence[str], cases: int, seed: int) -> Report:
    """Run cases `seed`, `seed` + 1, ... of the kinds in turn."""
    report = Report()
    with a_place() as place:
        os.chdir(place)
        for words in (("run", "hydra.run.dir=valid/run"), ("run", "-m", "seed=1,2", "hydra.sweep.dir=valid/sweep")):
            code, printed = call([*words, *SYNTHETIC, *SMALL])
            if code:
                raise RuntimeError(f"the valid run failed: {printed}")
        for number in range(seed, seed + cases):
            before = len(report.findings)
            case(kinds[number % len(kinds)], number, place, place / "valid", report)
            for text in report.findings[before:]:
                print(text, file=sys.stderr, flush=True)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found; return 1 if anything was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, help="one kind of files")
    asked = parser.parse_args(arguments)
    report = fuzz([asked.only] if asked.only else [*KINDS], asked.cases, asked.seed)
    codes = ", ".join(f"{code}: {count:,}" for code, count in sorted(report.codes.items()))
    print(f"{asked.cases:,} cases, {len(report.findings)} findings; exit codes {codes}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
