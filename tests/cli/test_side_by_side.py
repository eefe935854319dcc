"""A sweep whose jobs run side by side in worker processes, without a launcher."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from fedsim.config import compose as config
from fedsim.config import launch as launching
from fedsim.runs import side_by_side

ALWAYS = "from fedsim.runs import side_by_side as s; s.START = -1; s.allowed_cores = lambda: [0, 1]"
"""Code that lets a sweep use two workers however short it is."""


@pytest.fixture
def quiet(tiny):
    """The overrides of a tiny run with the default console, with which jobs run side by side."""
    return [word for word in tiny if not word.startswith("console")]


@pytest.fixture
def started(monkeypatch):
    """Let sweeps use two workers, however short they are; a list of how many were started for how many jobs."""
    counts = []
    run = launching.run_in_workers

    def counted(work, pieces, number):
        found, killed = run(work, pieces, number)
        counts.append((number, len(found)))
        return found, killed

    monkeypatch.setattr(launching, "run_in_workers", counted)
    monkeypatch.setattr(side_by_side, "START", -1)
    monkeypatch.setattr(side_by_side, "allowed_cores", lambda: [0, 1])
    return counts


def statuses(folder):
    return list(pd.read_csv(folder / "sweep.csv")["status"])


def test_every_job_has_the_bytes_of_the_same_run_alone(fedsim, elsewhere, quiet, started):
    answer = fedsim("run", "-m", *quiet, "model=rnn,gru", "seed=1,2", "hydra.sweep.dir=sweep")
    assert (answer.code, answer.err) == (0, "")
    assert started == [(2, 4)]
    lines = answer.out.splitlines()
    assert lines[0] == "4 of 4 jobs to run; writing to sweep"
    assert sorted(line.split("  ")[0] for line in lines[1:5]) == [f"job {k}" for k in range(4)]  # as they end
    assert lines[5].startswith("job  ")  # the table: jobs print nothing themselves
    assert (elsewhere / "sweep" / "multirun.yaml").exists()
    for number, (model, seed) in enumerate([("rnn", 1), ("rnn", 2), ("gru", 1), ("gru", 2)]):
        assert fedsim("run", *quiet, f"model={model}", f"seed={seed}", f"hydra.run.dir=alone/{number}").code == 0
        one, other = (elsewhere / name / str(number) for name in ("sweep", "alone"))
        assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
        assert (one / "config.yaml").read_bytes() == (other / "config.yaml").read_bytes()
        assert "num: " + str(number) in (one / ".hydra" / "hydra.yaml").read_text()


def test_a_share_of_the_threads(fedsim, elsewhere, quiet, started, monkeypatch):
    """Three jobs on four cores have one thread each, and still do when only one of them is left to run."""
    monkeypatch.setattr(side_by_side, "allowed_cores", lambda: [0, 1, 2, 3])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    words = [word for word in quiet if not word.startswith("threads")]

    def threads():
        return {json.loads(path.read_text())["threads"] for path in elsewhere.glob("sweep/*/summary.json")}

    assert fedsim("run", "-m", *words, "seed=1,2,3", "hydra.sweep.dir=sweep").code == 0
    assert threads() == {1}
    shutil.rmtree(elsewhere / "sweep" / "1")
    assert fedsim("run", "-m", *words, "seed=1,2,3", "--resume", "sweep").code == 0
    assert threads() == {1}
    assert started == [(3, 3)]  # one job needs no worker


def test_a_job_that_diverges(fedsim, elsewhere, quiet, started):
    words = ("model=rnn", "model.nonlinearity=relu", "data.task=regression", "rounds=20")
    answer = fedsim("run", "-m", *quiet, *words, "client.optimizer.lr=1e-3,1e6,1e-4", "hydra.sweep.dir=sweep")
    assert (answer.code, started) == (4, [(2, 3)])
    assert statuses(elsewhere / "sweep") == ["done", "diverged", "done"]
    assert re.fullmatch(r"error: diverged: .*\n", answer.err)
    assert "job 1  client.optimizer.lr=1000000.0" in answer.out


def test_an_interrupted_sweep_goes_on(fedsim, elsewhere, quiet, started):
    """Ctrl-C while two of three jobs run: they finish the round and save; resumed, all have the bytes they should."""
    command = ("run", "-m", *quiet, "seed=1,2,3", "rounds=300", "checkpoint.every=100")

    def interrupt():
        files = [elsewhere / "sweep" / job / "metrics.csv" for job in "01"]
        deadline = time.monotonic() + 60
        while not all(file.exists() and file.read_bytes().count(b"\n") > 20 for file in files):
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    answer = fedsim(*command, "hydra.sweep.dir=sweep")
    thread.join()
    assert answer.code == 130
    note, last = answer.err.splitlines()
    assert note == "note: ending after the rounds that are running; interrupt again to end at once"
    assert last.startswith("note: interrupted; to go on: fedsim run -m ")
    assert statuses(elsewhere / "sweep") == ["interrupted", "interrupted", "not started"]
    for job in "01":
        rows = pd.read_csv(elsewhere / "sweep" / job / "metrics.csv")["round"]
        assert list((elsewhere / "sweep" / job / "checkpoints").glob(f"round_{max(rows):06d}.*")), rows
    assert fedsim(*shlex.split(last.partition("fedsim ")[2])).code == 0  # the way on, as it was printed
    assert statuses(elsewhere / "sweep") == ["done"] * 3
    assert fedsim(*command, "hydra.sweep.dir=whole").code == 0
    for job in "012":
        whole, resumed = (elsewhere / folder / job / "metrics.csv" for folder in ("whole", "sweep"))
        assert resumed.read_bytes() == whole.read_bytes()
    assert [number for number, _ in started] == [2, 2]  # the first one never returned


DEADLY = """
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from fedsim.aggregation.mean import Mean


@dataclass(frozen=True)
class Deadly(Mean):
    strength: float = 0.0

    def start(self, like):
        once = Path("once")
        if self.strength > 1.5 or (self.strength > 0.5 and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().start(like)
"""


def test_a_killed_worker_ends_no_other_job(fedsim, elsewhere, quiet, started, write_config, monkeypatch):
    """Of five jobs one is always killed, and one only at its first try; the module is the user's own."""
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "deadly.py").write_text(DEADLY)
    folder = write_config("aggregator/combine/deadly.yaml", "# Kills\n_target_: deadly.Deadly\nstrength: 0.0\n")
    mine = ("--config-dir", folder, "--allow-module", "deadly", "aggregator/combine=deadly")
    swept = "aggregator.combine.strength=0,1,2,0.1,0.2"
    answer = fedsim("run", "-m", *quiet, *mine, swept, "hydra.sweep.dir=sweep")
    assert statuses(elsewhere / "sweep") == ["done", "done", "killed", "done", "done"], answer
    assert answer.code == 4
    assert "error: a worker was killed, by the system if memory was short: job" in answer.err
    assert "error: job 2 was killed twice; see sweep/2\n" in answer.err
    assert "job 1 was" not in answer.err


def test_a_killed_sweep_leaves_no_workers(fedsim, elsewhere, quiet):
    command = ("run", "-m", *quiet, "seed=1,2", "rounds=5000", "checkpoint.every=10")
    code = f"{ALWAYS}; from fedsim.cli.main import main; main()"
    running = subprocess.Popen([sys.executable, "-c", code, *command, "hydra.sweep.dir=sweep"], stdout=-3)
    deadline = time.monotonic() + 60
    while len(list(elsewhere.glob("sweep/[01]/checkpoints/*.safetensors"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.kill()
    running.wait()
    again = (*command, "rounds=5001", "stop.target=0", "console=none", "--resume", "sweep")  # ends at once
    while (answer := fedsim(*again)).code == 2 and "in use by" in answer.err:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.code == 0, answer
    assert statuses(elsewhere / "sweep") == ["stopped"] * 2


SCRIPT = """
import fedsim
{always}
print("once")
settings = {settings}
runs = fedsim.sweep({{"seed": [1, 2, 3]}}, *settings, directory="sweep", console="none")
print([run.status for run in runs])
"""


def test_a_script_without_a_guard(elsewhere, quiet):
    """Workers do not import the script, which would start the sweep again in each of them."""
    (elsewhere / "script.py").write_text(SCRIPT.format(always=ALWAYS, settings=quiet))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("once\njob  seed ")
    assert done.stdout.endswith("['done', 'done', 'done']\n")
    assert done.stdout.count("once") == 1


# How many


def job(mode="auto", device="cpu", threads=None):
    experiment = SimpleNamespace(
        console=SimpleNamespace(mode=mode), torch_device=lambda: torch.device(device), threads=threads
    )
    return config.Job((), experiment, None)


@pytest.mark.parametrize(
    ("jobs", "most", "modules", "number"),
    [
        ([job()] * 3, None, (), 3),
        ([job()] * 20, None, (), 8),
        ([job(), job(mode="none")] * 10, 2, (), 2),
        ([job()] * 20, 1, (), 1),
        ([job(threads=1), job(threads=3)], None, (), 2),
        ([job(threads=3)] * 20, None, (), 2),
        ([job(threads=16)] * 20, None, (), 1),
        ([job(), job(mode="rich")], None, (), 1),  # whose rounds are to be seen
        ([job(mode="plain")] * 2, None, (), 1),
        ([job(device="cuda")] * 2, None, (), 1),
        ([job()] * 2, None, ("__main__",), 1),
        ([job()] * 2, None, ("pandas", "made_here"), 1),
        ([job()] * 2, None, ("pandas",), 2),
    ],
)
def test_jobs_at_once_on_eight_cores(monkeypatch, jobs, most, modules, number):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(side_by_side, "allowed_cores", lambda: [*range(8)])
    monkeypatch.setitem(sys.modules, "made_here", type(sys)("made_here"))
    assert side_by_side.at_once(jobs, most, modules) == number


def test_no_more_cores_than_slurm_allots(monkeypatch):
    monkeypatch.setattr(side_by_side, "allowed_cores", lambda: [*range(8)])
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert side_by_side.at_once([job()] * 20, None, ()) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "99")
    assert side_by_side.usable_cores() == 8


@pytest.fixture
def pending(compose, quiet):
    """Eight jobs with their numbers."""
    return [(k, config.Job((), compose(*quiet, f"seed={k}"), None)) for k in range(8)]


def test_short_sweeps_need_no_workers(monkeypatch, pending):
    """Workers cost two seconds: eight jobs of 0.4 seconds, 3.2 in all, gain 1.6 from two and 2.4 from four of them."""
    monkeypatch.setattr(side_by_side, "estimate", lambda simulation, macs: SimpleNamespace(seconds=0.4))
    assert side_by_side.workers_for(pending, 2) is None
    assert side_by_side.workers_for(pending, 4) == 4
    assert side_by_side.workers_for(pending[:1], 4) is None
    monkeypatch.setattr(side_by_side, "estimate", lambda simulation, macs: SimpleNamespace(seconds=None))
    assert side_by_side.workers_for(pending, 2) == 2
    monkeypatch.setattr(side_by_side, "estimate", lambda simulation, macs: 1 / 0)
    assert side_by_side.workers_for(pending, 2) == 2  # the jobs will say what is wrong
    monkeypatch.setattr(side_by_side, "round_macs", lambda simulation: 1e11)
    monkeypatch.delattr(side_by_side, "estimate")  # nothing is tried of what takes long for certain
    assert side_by_side.workers_for(pending, 2) == 2


def test_workers_take_at_most_half_of_the_memory(monkeypatch, pending):
    """Each is reckoned as 500 MiB that this process has taken and 100 MiB to train in: three in half of 4 GiB."""
    monkeypatch.setattr(side_by_side, "START", -1)
    usage = SimpleNamespace(ru_maxrss=500 * 2 ** (20 if sys.platform == "darwin" else 10))
    monkeypatch.setattr("resource.getrusage", lambda who: usage)
    monkeypatch.setattr(side_by_side, "training_bytes", lambda simulation: 100 * 2**20)
    monkeypatch.setattr(side_by_side, "available_bytes", lambda: 4 * 2**30)
    assert side_by_side.workers_for(pending, 8) == 3
    monkeypatch.setattr(side_by_side, "available_bytes", lambda: 2 * 2**30)
    assert side_by_side.workers_for(pending, 8) is None
