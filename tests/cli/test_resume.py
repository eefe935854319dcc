"""`fedsim resume`, and runs that are killed, interrupted, or run out of disk."""

import json
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from fedsim.recording.lock import locked
from fedsim.runs import checkpoints
from fedsim.runs import run as runner

ROUNDS = 150
LONG = (f"rounds={ROUNDS}", "checkpoint.every=1", "eval.every=7", "aggregator=scaffold", "sampler.fraction=0.7")
LONG = (*LONG, "aggregator/server_optimizer=adam", "console=none")

KNOWN = []


def summary(directory):
    return json.loads((Path(directory) / "summary.json").read_text())


def metrics(directory):
    return (Path(directory) / "metrics.csv").read_bytes()


def wait_for_rows(directory, process, count):
    deadline = time.monotonic() + 60
    while not (Path(directory, "metrics.csv").exists() and metrics(directory).count(b"\n") > count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def whole(fedsim, tiny):
    """The metrics.csv of `LONG`, not interrupted."""
    if not KNOWN:
        assert fedsim("run", *tiny, *LONG, "checkpoint=none", "hydra.run.dir=whole").code == 0
        KNOWN.append(metrics("whole"))
    return KNOWN[0]


# Killed


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_moment(process, fedsim, tiny, whole, seed):
    draw = random.Random(seed)  # noqa: S311  # moments, not secrets
    running = process("run", *tiny, *LONG, "hydra.run.dir=run")
    wait_for_rows("run", running, draw.randrange(1, ROUNDS // 2))
    time.sleep(draw.random() * 0.02)
    running.kill()
    running.communicate(timeout=60)
    assert not Path("run/summary.json").exists()
    assert Path("run/.lock").exists()  # of a process that has ended
    answer = fedsim("resume", "run")
    assert (answer.code, answer.err) == (0, "")
    assert metrics("run") == whole
    assert not Path("run/.lock").exists()
    assert summary("run")["resumed"][0]["after_round"] >= 1


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace", "prune", "row"])
def test_killed_within_a_write(fedsim, tiny, elsewhere, whole, step):
    """SIGKILL in a forked child between any two steps of writing a checkpoint or a row."""
    child = os.fork()
    if child == 0:
        _die_within(step)
        fedsim("run", *tiny, *LONG, "hydra.run.dir=run")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    answer = fedsim("resume", "run")
    assert (answer.code, answer.err) == (0, "")
    assert metrics("run") == whole
    assert not list(Path("run").rglob("*.partial"))


def _die_within(step):
    """Make this process kill itself when round 20 is written."""

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    save, record = checkpoints.save_checkpoint, runner.Recorder.record

    def dying_save(directory, state, run=None):
        if state.round == 20:
            if step == "open":
                die()
            write = checkpoints.write_atomically

            def half(path, content):
                if step == "write":
                    path.with_name(f".{path.name}.partial").write_bytes(content[:100])
                    die()
                if step == "fsync":
                    os.fsync = die
                if step == "replace":
                    Path.replace = die
                write(path, content)

            checkpoints.write_atomically = half
        return save(directory, state, run)

    def dying_record(self, result, state):
        if state.round == 20:
            if step == "prune":
                runner.prune_checkpoints = die
            if step == "row":
                self._metrics._file.write(b"20,3,0.")
                die()
        record(self, result, state)

    runner.save_checkpoint, runner.Recorder.record = dying_save, dying_record


# Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupted_after_the_round(process, fedsim, tiny, whole, number, code):
    running = process("run", *tiny, *LONG, "checkpoint.every=1000", "hydra.run.dir=run")
    wait_for_rows("run", running, 5)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert err == f"note: interrupted{by}; to go on: fedsim resume {Path('run').absolute()}\n"
    found = summary("run")
    assert found["status"] == "interrupted"
    assert Path(f"run/checkpoints/round_{found['rounds']:06d}.safetensors").exists()
    assert fedsim("resume", "run").code == 0
    assert metrics("run") == whole
    assert summary("run")["resumed"][0]["after_round"] == found["rounds"]


def test_a_closed_pipe_ends_the_run_after_the_round(process, fedsim, tiny, whole):
    """As with ``| head``: what was done is saved, and there is one line on stderr."""
    running = process("run", *tiny, *LONG, "console=plain", "checkpoint.every=1000", "hydra.run.dir=run")
    wait_for_rows("run", running, 3)
    running.stdout.close()
    running.stdout = open(os.devnull)  # noqa: SIM115  # for communicate
    _, err = running.communicate(timeout=60)
    assert running.returncode == 141
    assert err.startswith("note: interrupted, because the output was closed; to go on: fedsim resume ")
    found = summary("run")
    assert (found["status"], found["reason"]) == ("interrupted", "its output was closed")
    assert Path(f"run/checkpoints/round_{found['rounds']:06d}.safetensors").exists()
    assert fedsim("resume", "run").code == 0
    assert metrics("run") == whole


def test_nohup_is_left_alone(process, tiny):
    running = process(
        "run", *tiny, *LONG, "hydra.run.dir=run", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    wait_for_rows("run", running, 3)
    running.send_signal(signal.SIGHUP)
    running.communicate(timeout=60)
    assert running.returncode == 0


def interrupting(monkeypatch, at, times):
    """Send SIGINT when round `at` is recorded."""
    original = runner.Recorder.record

    def record(self, result, state):
        original(self, result, state)
        if state.round == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runner.Recorder, "record", record)


def test_a_second_signal_ends_the_run_at_once(fedsim, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        interrupting(patch, 3, 2)
        answer = fedsim("run", *tiny, "rounds=9", "checkpoint.every=2", "hydra.run.dir=run")
    assert (answer.code, answer.err) == (130, f"note: interrupted; to go on: fedsim resume {Path('run').absolute()}\n")
    assert "ending after this round; interrupt again to end at once" in answer.out
    assert [path.stem for path in Path("run/checkpoints").iterdir()] == ["round_000002"]
    assert summary("run")["status"] == "interrupted"
    assert fedsim("run", *tiny, "rounds=9", "hydra.run.dir=whole").code == 0
    assert fedsim("resume", "run").code == 0
    assert metrics("run") == metrics("whole")


def test_a_signal_in_the_last_round(fedsim, tiny, monkeypatch):
    """The run is done and says so; the exit code still ends a sweep or a script."""
    interrupting(monkeypatch, 2, 1)
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == 130
    assert summary("run")["status"] == "done"


def test_without_checkpoints_an_interrupted_run_starts_over(fedsim, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        interrupting(patch, 3, 1)
        assert fedsim("run", *tiny, "rounds=6", "checkpoint=none", "hydra.run.dir=run").code == 130
    assert not Path("run/checkpoints").exists()
    answer = fedsim("resume", "run")
    assert answer.code == 0
    assert answer.err == "warning: run: there is no usable checkpoint; starting over from round 0\n"
    assert fedsim("run", *tiny, "rounds=6", "hydra.run.dir=whole").code == 0
    assert metrics("run") == metrics("whole")


# A full disk


def test_a_checkpoint_that_does_not_fit_on_the_disk(fedsim, tiny):
    """Like a full disk, a limit on file sizes refuses the second half of a file, here only of the checkpoints."""
    big = (*tiny, "model.hidden_size=64", "rounds=6", "checkpoint.every=2", "console=none")
    assert fedsim("run", *big, "hydra.run.dir=whole").code == 0
    assert fedsim("run", *big, "rounds=2", "hydra.run.dir=run").code == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        answer = fedsim("resume", "run", "rounds=6")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer.code == 1
    assert answer.err.startswith("error: File too large: ")
    assert "round_000004.safetensors; what was recorded before is intact" in answer.err
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["round_000002.safetensors"]
    assert metrics("run") == b"".join(metrics("whole").splitlines(keepends=True)[:6])
    assert summary("run")["status"] == "failed"
    assert fedsim("resume", "run").code == 0
    assert metrics("run") == metrics("whole")


# One process per directory


def test_a_directory_in_use(refused, process, fedsim, tiny):
    running = process("run", *tiny, "rounds=1000000", "hydra.run.dir=run", "console=none", "checkpoint.every=1")
    wait_for_rows("run", running, 3)
    os.kill(running.pid, signal.SIGSTOP)
    assert refused("resume", "run").startswith(f"run: in use by process {running.pid} on ")
    held = Path("run/.lock").read_bytes()
    for more in (("client.batch_size=2",), ("hydra.run.dir=other",)):  # a fork only reads
        answer = fedsim("resume", "run", *more, "rounds=9")
        assert (answer.code, answer.err) == (0, ""), answer
    assert metrics("run-fork-1").startswith(metrics("run")[:100])
    assert Path("run/.lock").read_bytes() == held
    os.kill(running.pid, signal.SIGCONT)
    running.kill()
    running.communicate()
    answer = fedsim("resume", "run", "rounds=3")
    assert "run: in use" not in answer.err


def test_a_lock_of_another_process_that_ended(fedsim, run_directory):
    directory = run_directory()
    (directory / ".lock").write_text('{"pid": 1, "host": "elsewhere", "process": "3", "since": "then"}\n')
    assert fedsim("resume", "run", "rounds=3").code == 0
    assert not (directory / ".lock").exists()


def test_a_new_run_locks_its_directory(fedsim, tiny):
    Path("run").mkdir()
    with locked(Path("run")):
        answer = fedsim("run", *tiny, "hydra.run.dir=run")
    assert answer.code == 2
    assert f"run: in use by process {os.getpid()}" in answer.err
    assert not Path("run/config.yaml").exists()


# The command


def test_resuming_a_finished_run_prints_one_line(fedsim, run_directory):
    directory = run_directory()
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "run.log"}
    answer = fedsim("resume", "run")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "run: done already, nothing to do; rounds=N goes on, and so does another stop setting\n"
    assert before == {path: path.read_bytes() for path in before}


def test_more_rounds(fedsim, run_directory):
    whole = run_directory("rounds=5", name="whole")
    directory = run_directory()
    answer = fedsim("resume", "run", "rounds=5", "stop.patience=99", "checkpoint=none", "threads=1", "console=plain")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(
        "going on after round 2, stop.patience null -> 99, checkpoint.every 10 -> null, rounds"
    )
    assert metrics("run") == metrics("whole")
    assert (whole / "clients.csv").read_bytes() == (directory / "clients.csv").read_bytes()
    assert (directory / "run.log").read_text().count("done: round limit") == 2
    assert "going on after round 2" in (directory / "run.log").read_text()


def test_forks_get_a_directory_next_to_the_run(fedsim, run_directory, elsewhere):
    run_directory("client/optimizer=adam")
    answer = fedsim("resume", "run", "client.optimizer.lr=0.5", "rounds=4", "aggregator/combine=median")
    assert (answer.code, answer.err) == (0, "")
    assert "a fork of run after round 2, " in answer.out
    assert "client.optimizer.lr 0.001 -> 0.5" in answer.out
    assert "aggregator.combine Weighted -> Median" in answer.out
    assert summary("run-fork-1")["rounds"] == 4
    assert metrics("run-fork-1").startswith(metrics("run"))
    answer = fedsim("resume", "run-fork-1", "rounds=5")
    assert (answer.code, answer.err) == (0, "")
    assert fedsim("resume", "run", "rounds=3", "hydra.run.dir=new/place").code == 0
    assert summary("new/place")["resumed"][0]["changed"] == {"rounds": [2, 3]}
    assert summary("run")["rounds"] == 2
    assert fedsim("compare", "run", "run-fork-1", "new/place").code == 0


def test_a_diverged_run_is_repaired_by_a_fork(fedsim, tiny):
    """Its last checkpoint is already close to infinity; the best one is kept as well."""
    explodes = ("model=rnn", "model.nonlinearity=relu", "data.task=regression", "rounds=60", "checkpoint.every=1")
    answer = fedsim("run", *tiny, *explodes, "client.optimizer.lr=3", "hydra.run.dir=run", "console=none")
    assert answer.code == 3
    best, *last = sorted(int(path.stem[-6:]) for path in Path("run/checkpoints").iterdir())
    assert best < last[0] - 1
    answer = fedsim("resume", "run", "client.optimizer.lr=1e-4", "--after-round", "2000")
    has = f"it has {best}, {last[0]}, {last[1]}"
    assert answer == (2, "", f"error: --after-round 2000: run has no good checkpoint of that round; {has}\n")
    answer = fedsim("resume", "run", "client.optimizer.lr=1e-4", "--after-round", best, "hydra.run.dir=mended")
    assert answer.code == 0, answer
    assert (summary("mended")["rounds"], summary("mended")["status"]) == (60, "done")
    assert metrics("mended").splitlines()[: best + 2] == metrics("run").splitlines()[: best + 2]
    (point,) = summary("mended")["resumed"]
    assert point["after_round"] == best
    assert fedsim("resume", "run").code == 3


def test_a_component_of_the_user(fedsim, refused, elsewhere, write_config, tiny):
    (elsewhere / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom fedsim.aggregation.mean import Mean\n\n\n"
        "@dataclass(frozen=True)\nclass Same(Mean):\n    pass\n"
    )
    configs = write_config("aggregator/combine/same.yaml", "# My own mean\n_target_: mine.Same\n")
    mine = ("--config-dir", configs, "--allow-module", "mine")
    answer = fedsim("run", *tiny, "aggregator/combine=same", "hydra.run.dir=run", *mine)
    assert answer.code == 0, answer
    line = refused("resume", "run", "rounds=3")
    assert "aggregator.combine._target_=mine.Same: not a part of fedsim" in line
    assert fedsim("resume", "run", "rounds=3", "--allow-module", "mine").code == 0
    assert fedsim("run", *tiny, "aggregator/combine=mean", "hydra.run.dir=other").code == 0
    answer = fedsim("resume", "other", "rounds=3", "aggregator/combine=same", *mine)
    assert answer.code == 0, answer


MISTAKES = {
    ("nowhere",): "nowhere: holds no run (there is no config.yaml)",
    ("run", "rouns=3"): "rouns=3: no such key (did you mean 'rounds'?)",
    ("run", "rounds"): "cannot read 'rounds'",
    ("run", "rounds=abc"): "rounds=abc: must be a whole number",
    ("run", "rounds=0"): "rounds=0: must be at least 1",
    ("run", "rounds=1"): "rounds=1: run has done 2 already",
    ("run", "seed=1,2"): "seed=1,2: a recorded run can be changed only by single values",
    ("run", "~stop"): "~stop: a recorded run can be changed only by single values",
    ("run", "hydra.sweep.dir=x"): "hydra.sweep.dir=x: a recorded run can be changed only by single values",
    ("run", "hydra/launcher=joblib"): "hydra/launcher=joblib: a recorded run can be changed only by single values",
    ("run", "experiment=gru_regression"): "experiment=gru_regression: stands for several settings",
    ("run", "aggregator=fedavgg"): "aggregator=fedavgg: no such option (did you mean 'fedavg'?)",
    ("run", "aggregator.combine=median"): "aggregator.combine=median: did you mean aggregator/combine=median?",
    ("run", "stop.metric=test_los", "rounds=5"): "stop.metric=test_los: this run records",
    ("run", "+foo=3"): "+foo=3: no such key",
    ("run", "model._target_=os.system"): "model._target_=os.system: not a part of fedsim",
    ("run", "hydra.run.dir=run"): "hydra.run.dir=run: already holds a run",
}


def test_mistakes(fedsim, run_directory, elsewhere):
    directory = run_directory()

    def tree():
        return {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file() and path.name != "run.log"}

    before = tree()
    for arguments, beginning in MISTAKES.items():
        answer = fedsim("resume", *arguments)
        assert answer.code == 2, answer
        assert answer.err.startswith(f"error: {beginning}"), (arguments, answer.err)
        assert answer.err.count("\n") == 1
        assert tree() == before, arguments
    assert fedsim("resume").code == 2
    assert fedsim("resume", "-m", "run").code == 2
    shutil.rmtree(directory / "checkpoints")
