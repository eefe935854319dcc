"""`torchrun -m fedsim run`: what users see, processes that die, and resuming with another number of them."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedsim as package
from fedsim.config import compose as config

LONG = ("rounds=400", "checkpoint.every=1", "sampler.fraction=0.7", "aggregator=scaffold", "dtype=float64")
SHORT = ("rounds=8", *LONG[1:])
MESSAGE = "error: another process of this run has ended or can no longer be reached; to go on: fedsim resume "


ROOT = Path(package.__file__).parents[1]


@pytest.fixture
def torchrun():
    """Return ``torchrun(size, *arguments)``, which starts ``torchrun -m fedsim`` and returns the process."""
    started = []

    def start(size, *arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        started.append(
            subprocess.Popen(
                [*command, "-m", "fedsim", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment | {"COLUMNS": "80"},
            )
        )
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def rows(directory):
    with Path(directory, "metrics.csv").open() as file:
        return [[float(cell or "nan") for cell in row.values()] for row in csv.DictReader(file)]


def summary(directory):
    return json.loads(Path(directory, "summary.json").read_text())


def same(one, other):
    assert len(rows(one)) == len(rows(other))
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-9, nan_ok=True)


def workers(launcher):
    """The processes that torchrun started, by rank."""
    found = {}
    for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        said = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(text[5:]): int(pid) for text in said if text.startswith(b"RANK=")}
    return found


def wait_for_rows(process, count):
    deadline = time.monotonic() + 120
    file = Path("run/metrics.csv")
    while not (file.exists() and file.read_bytes().count(b"\n") > count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_on_two_processes(torchrun, fedsim, tiny):
    shared = torchrun(2, "run", *tiny, *SHORT, "hydra.run.dir=run")
    assert fedsim("run", *tiny, *SHORT, "hydra.run.dir=alone").code == 0
    out, err = shared.communicate(timeout=300)
    assert shared.returncode == 0, err
    assert "error" not in err
    assert out.count("2 processes") == out.count("done after round 8") == 1
    same("run", "alone")
    assert [summary(name)["processes"] for name in ("run", "alone")] == [2, 1]
    assert summary("run")["threads"] == 1
    assert Path("run/config.yaml").read_bytes() == Path("alone/config.yaml").read_bytes()


def killed(torchrun, tiny, rank):
    process = torchrun(2, "run", *tiny, *LONG, "hydra.run.dir=run")
    wait_for_rows(process, 5)
    os.kill(workers(process)[rank], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    assert err.count("\nerror: ") + err.startswith("error: ") == 1, err
    assert f"{MESSAGE}{Path('run').resolve()}\n" in err
    assert err.count("Traceback") == 1  # torchrun's own
    done = len(rows("run"))
    return max(done + 2, 10)


def test_a_killed_process_ends_the_run_and_any_number_can_resume_it(torchrun, fedsim, tiny):
    rounds = killed(torchrun, tiny, rank=1)
    assert summary("run")["status"] == "failed"
    assert fedsim("run", *tiny, *LONG, f"rounds={rounds}", "hydra.run.dir=alone").code == 0
    answer = fedsim("resume", "run", f"rounds={rounds}")
    assert answer.code == 0, answer.err
    assert "processes 2 -> 1" in answer.err
    same("run", "alone")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_resume(torchrun, fedsim, tiny, size):
    rounds = killed(torchrun, tiny, rank=0)
    assert not Path("run/summary.json").exists()
    assert fedsim("run", *tiny, *LONG, f"rounds={rounds}", "hydra.run.dir=alone").code == 0
    process = torchrun(size, "resume", "run", f"rounds={rounds}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    same("run", "alone")
    assert summary("run")["resumed"][0]["processes"] == summary("run")["processes"] == size


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_round(torchrun, fedsim, tiny, number):
    process = torchrun(2, "run", *tiny, *LONG, "hydra.run.dir=run")
    wait_for_rows(process, 5)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "note: interrupted" in err
    found = summary("run")
    assert found["status"] == "interrupted"
    assert Path(f"run/checkpoints/round_{found['rounds']:06d}.safetensors").exists()


@pytest.mark.slow
def test_the_same_number_of_processes_gives_the_same_bytes(torchrun, tiny):
    for name in ("run", "again"):
        process = torchrun(2, "run", *tiny, *SHORT, "dtype=float32", f"hydra.run.dir={name}")
        assert process.communicate(timeout=300)
        assert process.returncode == 0
    assert Path("run/metrics.csv").read_bytes() == Path("again/metrics.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [("client.epochs=0",), ("hydra.run.dir=full",), ("partition=shards", "num_clients=99")]
)
def test_mistakes_are_reported_once(torchrun, tiny, wrong):
    Path("full").mkdir()
    Path("full/metrics.csv").write_text("round\n")
    process = torchrun(2, "run", *tiny, *wrong)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1  # torchrun's own; the processes end with 2
    assert "exitcode  : 2" in err
    assert err.count("\nerror: ") + err.startswith("error: ") == 1
    assert err.count("Traceback") == 1  # torchrun's own


@pytest.mark.parametrize(
    ("arguments", "reason"), [(("run", "-m", "seed=1,2"), "a sweep uses all cores"), (("list",), "fedsim run")]
)
def test_commands_refused_under_torchrun(fedsim, monkeypatch, arguments, reason):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        answer = fedsim(*arguments)
        assert answer.code == 2
        assert (reason in answer.err) == (rank == "0") == bool(answer.err)


def test_an_environment_variable_that_is_not_a_number(fedsim, monkeypatch, tiny):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    answer = fedsim("run", *tiny)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "WORLD_SIZE=two" in answer.err


@pytest.mark.parametrize("there", [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "1"}, {"RANK": "1", "WORLD_SIZE": "x"}])
def test_a_variable_of_another_program_silences_no_mistake(fedsim, monkeypatch, there):
    """Only one of several processes leaves it to rank 0 to report a mistake."""
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    answer = fedsim("run", "rouns=1")
    assert answer.code == 2
    assert answer.err.startswith("error: ")


def test_a_rank_out_of_range(fedsim, monkeypatch):
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert fedsim("run").err == "error: RANK=5: must be from 0 to 1, because WORLD_SIZE=2\n"


def test_the_commands_in_the_documentation():
    lines = [line for line in (ROOT / "docs/scaling.md").read_text().splitlines() if line.startswith("torchrun ")]
    assert len(lines) >= 3
    for line in lines:
        launch, _, command = line.partition(" -m fedsim ")
        assert "--nproc-per-node=" in launch
        name, *words = shlex.split(command, comments=True)
        if name == "run":
            assert config.check_request(config.normalise(config.Request(tuple(words))))
        else:
            assert (name, words) == ("resume", ["RUN_DIR"])


def test_another_process_with_other_overrides_is_refused(tiny):
    words = shlex.join([sys.executable, "-m", "fedsim", "run", *tiny, "hydra.run.dir=run"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    ended = subprocess.run(
        [*command, "bash", "-c", f"exec {words} seed=$RANK"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode != 0
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: process 1 was given seed=1 and not seed=0; all processes need the command of process 0, the only one "
        "that counts"
    ]
    assert not Path("run").exists()
