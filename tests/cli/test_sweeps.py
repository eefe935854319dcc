"""`fedsim run -m`: the table at the end, resuming an interrupted sweep, and launchers other than Hydra's own."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import venv
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus

from fedsim.config import compose as config
from fedsim.config import composed_cache as composing
from fedsim.config import launch as launching
from fedsim.errors import UserError
from fedsim.machine import allowed_cores
from fedsim.runs import run as runner
from fedsim.runs import sweep
from fedsim.runs.console import format_value

ROOT = Path(__file__).parents[2]
EXPLODES = ("model=rnn", "model.nonlinearity=relu", "data.task=regression", "rounds=20")


def table(folder):
    return pd.read_csv(folder / "sweep.csv", dtype={"job": int})


def status(directory):
    return json.loads((directory / "summary.json").read_text())["status"]


@pytest.fixture
def interrupt(monkeypatch):
    """Return ``interrupt(seed, round_number)``: Ctrl-C arrives in that round of the run with that seed."""
    record = runner.Recorder.record

    def at(seed, round_number):
        def interrupted(self, result, state):
            record(self, result, state)
            if (self.simulation.experiment.seed, state.round) == (seed, round_number):
                raise KeyboardInterrupt

        monkeypatch.setattr(runner.Recorder, "record", interrupted)

    yield at
    monkeypatch.setattr(runner.Recorder, "record", record)


def test_the_table_at_the_end(fedsim, elsewhere, tiny):
    answer = fedsim("run", "-m", *tiny, "model=rnn,gru", "seed=1,2", "stop.target=0", "hydra.sweep.dir=sweep")
    assert (answer.code, answer.err) == (0, "")
    found = table(elsewhere / "sweep")
    columns = ["job", "model", "seed", "status", "rounds", "metric", "final", "best", "best_round", "rounds_to_target"]
    assert list(found) == [*columns, "path"]  # only those overrides that differ
    assert list(zip(found["model"], found["seed"], strict=True)) == [(m, s) for m in ("rnn", "gru") for s in (1, 2)]
    assert set(found["status"]) == {"stopped"}
    assert set(found["rounds_to_target"]) == {0}  # an accuracy of 0 is reached before the first round
    assert list(found["path"]) == [0, 1, 2, 3]
    assert "4 of 4 jobs finished, judged by test_accuracy; see sweep/sweep.csv" in answer.out
    assert "HYDRA" not in answer.out
    recorded = yaml.safe_load((elsewhere / "sweep" / "sweep.yaml").read_text())
    assert {"model=gru", "seed=2"} <= set(recorded["jobs"][3])


def test_the_table_has_the_test_result_of_the_round_that_validation_chose(fedsim, elsewhere, tiny):
    held = ("eval.validation_fraction=0.3", "rounds=3", "seed=0,1", "hydra.sweep.dir=sweep", "console=none")
    answer = fedsim("run", "-m", *tiny, *held)
    assert answer.code == 0, answer.err
    table = pd.read_csv("sweep/sweep.csv")
    for number in (0, 1):
        rounds = pd.read_csv(f"sweep/{number}/metrics.csv")
        best = rounds.loc[rounds["validation_accuracy"].idxmax()]
        assert table["best_round"][number] == best["round"]
        assert table["chosen_test"][number] == pytest.approx(best["test_accuracy"])
    assert re.search(r"final +best +round +test then +status", answer.out)


def test_without_a_console_only_the_table_is_printed(fedsim, elsewhere, tiny):
    answer = fedsim("run", "-m", *tiny, "seed=1,2", "console=none", "hydra.sweep.dir=sweep")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("job  seed ")
    assert answer.out.count("\n") == 5  # header, rule, two jobs, the last line
    assert answer.out.endswith("2 of 2 jobs finished, judged by test_accuracy; see sweep/sweep.csv\n")
    assert len(table(elsewhere / "sweep")) == 2


def test_a_sweep_shows_a_line_for_every_job(fedsim, elsewhere, tiny):
    """What differs, the result, how it ended; and before that, what there is to say about data and settings."""
    words = [word for word in tiny if not word.startswith("console")]
    answer = fedsim("run", "-m", *words, "seed=1,2", "model=gru,rnn", "hydra.sweep.dir=sweep")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == "4 of 4 jobs to run; writing to sweep"
    for number, (line, row) in enumerate(zip(lines[1:5], table(elsewhere / "sweep").to_dict("records"), strict=True)):
        final = format_value(float(row["final"]))
        label = f"job {number}  seed={row['seed']} model={row['model']}  test_accuracy {final} (best "
        assert line.startswith(label), line
        assert re.search(r"in round [012]\)  done in [\d.]+ s$", line)
    again = fedsim("run", "-m", *words, "seed=1,2", "model=gru,rnn", "--resume", "sweep")
    assert again.out.startswith("0 of 4 jobs to run; writing to sweep\njob  ")


def test_a_job_that_diverges_is_in_the_table(fedsim, elsewhere, tiny):
    answer = fedsim("run", "-m", *tiny, *EXPLODES, "client.optimizer.lr=1e6,1e-3", "hydra.sweep.dir=sweep")
    assert answer.code == 4
    assert list(table(elsewhere / "sweep")["status"]) == ["diverged", "done"]
    assert "1 of 2 jobs finished" in answer.out
    again = fedsim("run", "-m", *tiny, *EXPLODES, "client.optimizer.lr=1e6,1e-3", "--resume", "sweep")
    assert again.code == 4  # it would diverge again, so it is not run
    assert "round" not in again.out.split("job ")[0]


def test_an_interrupted_sweep_is_finished_by_the_same_command(fedsim, elsewhere, tiny, interrupt):
    command = ("run", "-m", *tiny, "seed=1,2,3", "rounds=4", "checkpoint.every=1")
    assert fedsim(*command, "hydra.sweep.dir=whole").code == 0
    interrupt(seed=2, round_number=2)
    answer = fedsim(*command, "hydra.sweep.dir=sweep")
    assert answer.code == 130
    assert answer.err.startswith("note: interrupted; to go on: fedsim run -m ")
    said = shlex.split(answer.err.partition("fedsim ")[2])
    assert list(table(elsewhere / "sweep")["status"]) == ["done", "interrupted", "not started"]
    interrupt(seed=None, round_number=None)
    first = (elsewhere / "sweep" / "0" / "summary.json").stat().st_mtime_ns
    answer = fedsim(*said)  # the way on, as it was printed
    assert answer.code == 0, answer
    assert (elsewhere / "sweep" / "0" / "summary.json").stat().st_mtime_ns == first
    assert "going on after round 2" in answer.out
    assert list(table(elsewhere / "sweep")["status"]) == ["done"] * 3
    for job in "012":
        whole, resumed = (elsewhere / folder / job / "metrics.csv" for folder in ("whole", "sweep"))
        assert resumed.read_bytes() == whole.read_bytes()


def test_a_killed_sweep_is_finished(process, fedsim, elsewhere, tiny):
    command = ("run", "-m", *tiny, "seed=1,2", "rounds=300", "checkpoint.every=10")
    running = process(*command, "hydra.sweep.dir=sweep")
    file = elsewhere / "sweep" / "0" / "checkpoints"
    deadline = time.monotonic() + 60
    while not (file.exists() and list(file.glob("*.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert not (elsewhere / "sweep" / "sweep.csv").exists()  # no process is left to write it
    assert fedsim(*command, "--resume", "sweep").code == 0
    assert list(table(elsewhere / "sweep")["status"]) == ["done"] * 2


def test_a_job_whose_folder_was_deleted_runs_again(fedsim, elsewhere, tiny):
    command = ("run", "-m", *tiny, "seed=1,2,3", "console=none")
    assert fedsim(*command, "hydra.sweep.dir=sweep").code == 0
    kept = (elsewhere / "sweep" / "0" / "summary.json").stat().st_mtime_ns
    metrics = (elsewhere / "sweep" / "1" / "metrics.csv").read_bytes()
    shutil.rmtree(elsewhere / "sweep" / "1")
    assert fedsim(*command, "--resume", "sweep").code == 0
    assert list(table(elsewhere / "sweep")["status"]) == ["done"] * 3
    assert (elsewhere / "sweep" / "1" / "metrics.csv").read_bytes() == metrics
    assert (elsewhere / "sweep" / "0" / "summary.json").stat().st_mtime_ns == kept


def test_more_rounds_for_a_finished_sweep(fedsim, elsewhere, tiny):
    assert fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep").code == 0
    assert fedsim("run", "-m", *tiny, "seed=1,2", "rounds=5", "--resume", "sweep").code == 0
    assert list(table(elsewhere / "sweep")["rounds"]) == [5, 5]


def test_a_job_with_another_config_is_refused(fedsim, refused, tiny):
    assert fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep").code == 0
    line = refused("run", "-m", *tiny, "seed=1,3", "client.batch_size=2", "--resume", "sweep")
    assert line.startswith("sweep/0: holds a run with another config; asked for is client.batch_size=2 (recorded: ")
    line = refused("run", "-m", *tiny, "seed=1,3", "--resume", "sweep")
    assert line == "sweep/1: holds a run with another config; asked for is seed=3 (recorded: 2)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("seed=1", "--resume", "nothing"), "--resume nothing: finishes a sweep; add -m"),
        (("-m", "seed=1,2", "--resume", "nothing"), "--resume nothing: does not hold a sweep (there is no sweep.yaml)"),
        (("-m", "seed=1,2", "--resume", "x", "hydra.sweep.dir=y"), "--resume x: the sweep stays in this folder"),
        (("-m", "seed=1,2", "--objective", "best"), "--objective best: is for Optuna sweeps; add -m"),
        (("-m", "seed=1,2", "hydra/launcher=evil"), "hydra/launcher=evil: must be one of basic, joblib, "),
        (("-m", "seed=1,2", "hydra/sweeper=ax"), "hydra/sweeper=ax: must be one of basic, optuna"),
        (("-m", "seed=1", "+hydra.sweeper.params.seed=1,2"), "is for config files; on a command line write the sweep"),
        (("seed=1", "hydra/launcher=joblib"), "hydra/launcher=joblib: is for sweeps; add -m"),
        (("-m", "seed=1,2", "hydra.launcher.pre_dispatch=9"), "hydra.launcher.pre_dispatch=9: fedsim does not let"),
        (("-m", "seed=1,2", "hydra.launcher.setup=[x]"), "hydra.launcher.setup=[x]: fedsim does not let"),
        (("-m", "seed=1,2", "hydra.sweeper.custom_search_space=a.b"), "hydra.sweeper.custom_search_space=a.b: fed"),
    ],
)
def test_mistakes(refused, tiny, arguments, words):
    assert words in refused("run", *tiny, *arguments)


@pytest.mark.parametrize(
    "settings",
    [
        ("privacy=central_dp,local_dp", "privacy.target_epsilon=8", "aggregator/combine=mean"),
        ("aggregator=fedadam", "aggregator/server_optimizer=adam,yogi", "aggregator.server_optimizer.tau=0.01"),
    ],
)
def test_a_key_that_only_the_swept_options_have(fedsim, elsewhere, tiny, settings):
    command = ("run", "-m", *tiny, *settings, "console=none")
    assert fedsim(*command, "hydra.sweep.dir=sweep/${model.hidden_size}").code == 0
    assert list(table(elsewhere / "sweep" / "2")["status"]) == ["done"] * 2
    assert fedsim(*command, "--resume", "sweep/2").code == 0


def test_overrides_of_one_key_mean_what_they_mean_without_m(fedsim, elsewhere, tiny):
    overrides = ("model=lstm", "model={hidden_size:8}", "model={num_layers:2}")
    assert fedsim("run", *tiny, *overrides, "seed=1", "hydra.run.dir=run").code == 0
    assert fedsim("run", "-m", *tiny, *overrides, "seed=1,2", "console=plain", "hydra.sweep.dir=sweep").code == 0
    single, job = (yaml.safe_load((elsewhere / one / "config.yaml").read_text()) for one in ("run", "sweep/0"))
    assert job == single
    model = job["model"]
    assert (model["_target_"].rpartition(".")[2], model["hidden_size"], model["num_layers"]) == ("LSTM", 8, 2)
    one, other = (elsewhere / name / "metrics.csv" for name in ("run", "sweep/0"))
    assert one.read_bytes() == other.read_bytes()


def test_the_table_shows_an_option_and_its_swept_mappings(fedsim, elsewhere, tiny):
    overrides = ("model=lstm,gru", "model={hidden_size:8},{hidden_size:4}", "console=none")
    assert fedsim("run", "-m", *tiny, *overrides, "hydra.sweep.dir=sweep").code == 0
    assert list(table(elsewhere / "sweep")["model"]) == [
        f"{model} {{hidden_size:{size}}}" for model in ("lstm", "gru") for size in (8, 4)
    ]


def test_a_repeated_value_is_refused(refused, tiny):
    line = refused("run", "-m", *tiny, "model=rnn,gru", "seed=1,1")
    assert line == "model=rnn,gru seed=1,1: jobs 0 and 1 would be the same run; give each value once"
    assert "jobs 0 and 2 would be" in refused("run", "-m", *tiny, "client.optimizer.lr=0.1,0.2,0.10")


def test_a_key_that_not_all_options_have(refused, tiny):
    line = refused("run", "-m", *tiny, "model=rnn,gru", "model.nonlinearity=relu")
    assert line == "model.nonlinearity=relu: no such key; it belongs to model=rnn: choose that too"


def test_data_are_prepared_once_for_jobs_that_differ_in_their_seed(monkeypatch, compose):
    prepared = []
    simulation = SimpleNamespace(population=SimpleNamespace(notes=("a note",)), advice=("advice",))
    monkeypatch.setattr(sweep, "prepared", lambda experiment: prepared.append(experiment.seed) or simulation)
    monkeypatch.setattr(sweep, "refuse_impossible", lambda simulation: None)
    monkeypatch.setattr(sweep, "first_row", lambda simulation: None)
    jobs = [
        config.Job((), compose("data=synthetic", f"seed={seed}", f"model={model}"), Path())
        for model in ("rnn", "gru")
        for seed in (1, 2, 3)
    ]
    assert sweep.check(jobs) == ["data: a note", "note: advice"]
    assert prepared == [1, 1]


def test_every_job_is_composed_once(fedsim, elsewhere, tiny, monkeypatch):
    composed = []
    load = composing.MergingOnce.load_configuration

    def counted(self, name, overrides, *arguments, **options):
        composed.append(tuple(sorted(overrides)))
        return load(self, name, overrides, *arguments, **options)

    monkeypatch.setattr(composing.MergingOnce, "load_configuration", counted)
    assert fedsim("run", "-m", *tiny, "seed=range(1,5)", "console=none", "hydra.sweep.dir=sweep").code == 0
    jobs = [
        overrides for overrides in composed if any(text in overrides for text in ("seed=2", "seed=4"))
    ]  # job 0 is composed for the sweep as a whole too
    assert len(jobs) == len(set(jobs)) == 2


# Threads


@pytest.mark.parametrize(("launcher", "n_jobs", "share"), [("joblib", 2, 4), ("joblib", -1, 1), ("basic", 0, None)])
def test_threads_are_divided(monkeypatch, launcher, n_jobs, share):
    monkeypatch.setattr(sweep, "allowed_cores", lambda: [*range(8)])
    settings = {"names": {"launcher": launcher, "sweeper": "basic"}, "launcher": {"n_jobs": n_jobs}, "sweeper": {}}
    concurrent = sweep.concurrency(settings, num_jobs=100)
    assert sweep.share_of_threads(8, concurrent) == share


def test_threads_are_divided_among_no_more_jobs_than_there_are(monkeypatch):
    monkeypatch.setattr(sweep, "allowed_cores", lambda: [*range(8)])
    settings = {"names": {"launcher": "joblib", "sweeper": "basic"}, "launcher": {"n_jobs": 8}, "sweeper": {}}
    assert sweep.concurrency(settings, num_jobs=2) == 2
    assert sweep.share_of_threads(8, 3) == 2
    assert sweep.share_of_threads(2, 3) == 1
    assert sweep.share_of_threads(8, 4, cpus_per_task=3) == 3
    with pytest.raises(UserError, match="n_jobs=0"):
        sweep.concurrency(settings | {"launcher": {"n_jobs": 0}}, num_jobs=2)
    with pytest.raises(UserError, match="n_jobs=999999999999: must be a number of jobs up to 10000"):
        sweep.concurrency(settings | {"launcher": {"n_jobs": 999999999999}}, num_jobs=2)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n_trials", 0, "must be at least 1"),
        ("n_jobs", 0, "must be at least 1"),  # with which the search would never end
        ("max_failure_rate", 7.0, "must be from 0 to 1"),
    ],
)
def test_a_search_that_would_not_begin_or_not_end(name, value, words):
    settings = {"n_trials": 2, "n_jobs": 1, "max_failure_rate": 1.0}
    sweep.check_search(settings)
    with pytest.raises(UserError, match=f"hydra.sweeper.{name}={value}: {words}"):
        sweep.check_search(settings | {name: value})


def test_a_launcher_that_fails_is_no_success(fedsim, tiny, monkeypatch):
    """As Optuna's, if its database cannot be opened: there is no job whose status could tell."""

    def failing(*arguments, **options):
        raise RuntimeError("no database\nat all")

    monkeypatch.setattr(sweep, "launch", failing)
    monkeypatch.setattr(sweep, "read_row", lambda number, own, job: sweep.Row(number, own, "done", job.directory))
    answer = fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep")
    assert (answer.code, answer.err) == (4, "error: the sweep ended early: RuntimeError: no database\n")


def test_slurms_allotment_of_cpus_is_used(fedsim, elsewhere, tiny, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setattr(sweep.torch, "get_num_threads", lambda: 4)
    asked = []
    monkeypatch.setattr(sweep.torch, "set_num_threads", asked.append)
    fedsim("run", "-m", *tiny, "threads=null", "seed=1,2", "console=plain", "hydra.sweep.dir=sweep")
    assert asked[0] == 1


# A worker that dies


def test_a_killed_worker_ends_only_its_own_job(fedsim, elsewhere, tiny, monkeypatch):
    launch, calls = launching.launch, []

    def dying(request, job, *, loader, pending, workers):
        """The worker of job 1 is killed whenever it runs; by then job 0 is done and job 2 has begun."""
        numbers = [number for number, _ in pending]
        calls.append(numbers)
        safe = [pair for pair in pending if pair[0] != 1 and (pair[0] == 0 or len(calls) > 1)]
        if safe:
            launch(request, job, loader=loader, pending=safe)
        if 1 in numbers:
            for number, pair in pending:
                if number in (1, 2):
                    pair.directory.mkdir(parents=True, exist_ok=True)
                    text = config.to_yaml(config.record_of(pair.experiment))
                    (pair.directory / "config.yaml").write_text(text)
            raise BrokenProcessPool("a worker died")

    monkeypatch.setattr(sweep, "launch", dying)
    answer = fedsim("run", "-m", *tiny, "seed=range(0,5)", "hydra.sweep.dir=sweep")
    assert answer.code == 4
    assert calls == [[0, 1, 2, 3, 4], [1], [2], [3, 4]]
    assert list(table(elsewhere / "sweep")["status"]) == ["done", "killed", "done", "done", "done"]
    assert "job 1 was killed twice" in answer.err


class Launcher:
    """Runs jobs as Hydra's launchers do, but some are killed and take the rest of their batch with them."""

    def __init__(self, killed):
        self.killed, self.calls = killed, []

    def launch(self, job_overrides, initial_job_idx):
        self.calls.append([*range(initial_job_idx, initial_job_idx + len(job_overrides))])
        if self.killed & set(self.calls[-1]):
            raise BrokenProcessPool("a worker died\nat some length")
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=float(text)) for (text,) in job_overrides]


def test_optuna_gets_a_killed_job_as_a_failed_one(capsys):
    inner = Launcher(killed={5})
    results = launching.Surviving(inner).launch([["1"], ["2"], ["3"]], initial_job_idx=4)
    assert inner.calls == [[4, 5, 6], [4], [5], [6]]
    assert [result.status for result in results] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.COMPLETED]
    assert (results[0].return_value, results[2].return_value) == (1.0, 3.0)
    assert capsys.readouterr().err == (
        "error: a worker was killed, perhaps by the system for lack of memory: a worker died\nerror: job 5 was killed\n"
    )


def test_no_job_is_launched_twice_if_none_is_killed():
    inner = Launcher(killed=set())
    surviving = launching.Surviving(inner)
    assert not surviving.any_done
    assert [result.return_value for result in surviving.launch([["1"], ["2"]], initial_job_idx=0)] == [1.0, 2.0]
    assert inner.calls == [[0, 1]]
    assert surviving.any_done


# Plugins, where they are installed

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(f"hydra_plugins.{module}") is None, reason=f"no {module}")
    if importlib.util.find_spec("hydra_plugins")
    else pytest.mark.skip(reason=f"no {module}")
    for name, module in (
        ("joblib", "hydra_joblib_launcher"),
        ("optuna", "hydra_optuna_sweeper"),
        ("submitit", "hydra_submitit_launcher"),
        ("ray", "hydra_ray_launcher"),
    )
}


@pytest.mark.parametrize(
    ("launcher", "setting"),
    [
        pytest.param("joblib", "n_jobs=3", marks=needs["joblib"]),
        pytest.param("submitit_local", "timeout_min=5", marks=needs["submitit"]),
        pytest.param("submitit_slurm", "partition=long", marks=needs["submitit"]),
        pytest.param("ray", "ray.init.num_cpus=2", marks=needs["ray"]),
    ],
)
def test_launchers_compose(tiny, launcher, setting):
    overrides = (*tiny, "seed=1,2", f"hydra/launcher={launcher}", f"+hydra.launcher.{setting}".lstrip("+"))
    if launcher == "ray":
        overrides = (*tiny, "seed=1,2", "hydra/launcher=ray")
    request = config.normalise(config.Request(overrides, multirun=True))
    loader = config.make_loader(None)
    jobs = config.check_request(request, loader)
    assert len(jobs) == 2
    assert config.launcher_of(jobs[0], loader)["names"]["launcher"] == launcher


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "hydra.launcher.setup=[evil]",
            "hydra.launcher.additional_parameters={x: y}",
            "hydra.launcher.name={_target_: x}",
        ),
        *("'hydra.launcher.partition=\"a\nb\"'".strip("'"), "hydra.launcher.name=${name}"),
    ],
)
@needs["submitit"]
def test_what_a_queue_would_run_is_refused(refused, tiny, setting):
    assert "hydra" in refused("run", "-m", *tiny, "seed=1,2", "hydra/launcher=submitit_slurm", setting)


@needs["optuna"]
@pytest.mark.filterwarnings("ignore")  # Optuna 2 with current libraries
def test_optuna(fedsim, refused, elsewhere, tiny):
    command = ("run", "-m", *tiny, "client.optimizer.lr=interval(0.01,1)", "hydra/sweeper=optuna", "hydra.sweep.dir=o")
    command += ("hydra.sweeper.n_jobs=1", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1")
    line = refused(*command)
    assert line.startswith("hydra.sweeper.direction=minimize: test_accuracy is better the higher it is; set ")
    assert "sqlite" in refused(*command, "hydra.sweeper.storage=mysql://x/y")
    assert fedsim(*command, "hydra.sweeper.direction=maximize", "--objective", "final").code == 0
    found = table(elsewhere / "o")
    best = yaml.safe_load((elsewhere / "o" / "optimization_results.yaml").read_text())["best_value"]
    assert best == found["final"].max()


@needs["optuna"]
@pytest.mark.filterwarnings("ignore")  # Optuna 2 with current libraries
@pytest.mark.parametrize(("rate", "trials"), [((), 2), (("hydra.sweeper.max_failure_rate=0.5",), 1)])
def test_optuna_with_failing_trials(fedsim, elsewhere, tiny, rate, trials):
    command = ("run", "-m", *tiny, *EXPLODES, "client.optimizer.lr=1e6", "seed=1,2", "hydra/sweeper=optuna")
    command += ("hydra.sweeper.n_jobs=1", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=o", *rate)
    assert fedsim(*command).code == 4
    assert list(table(elsewhere / "o")["status"]) == ["diverged"] * trials


DEADLY = """
import os
import signal
from dataclasses import dataclass

from fedsim.aggregation.mean import Mean


@dataclass(frozen=True)
class Deadly(Mean):
    strength: float = 0.0

    def start(self, like):
        if self.strength > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().start(like)
"""

EXTRAS = {
    "joblib": (("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), ("0", "1", "0.1", "0.2")),
    "submitit": (("hydra/launcher=submitit_local",), ("0", "1", "0.1", "0.2")),
    "ray": (("hydra/launcher=ray",), ("0", "0.1")),
    "joblib,optuna": (
        (
            *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4"),
            *("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.storage=sqlite:///study.db"),
            "hydra.sweeper.study_name=killed",
        ),
        ("0", "1", "0.1", "0.2"),
    ),
}


def call(*command, cwd):
    """Run a command to its end, as in a new shell."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def environment(folder, *arguments, base=None):
    """Make a virtual environment, in which packages of `base` count as installed, and run ``pip install`` in it."""
    venv.create(folder, with_pip=True)
    if base is not None:
        paths = [next(one.glob("lib/python3*/site-packages")) for one in (base, folder)]
        (paths[1] / "base.pth").write_text(f"{paths[0]}\n")
    done = call(folder / "bin" / "python", "-m", "pip", "install", "-q", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An environment with fedsim and no extras, so that torch is unpacked only once."""
    return environment(tmp_path_factory.mktemp("base") / "venv", "-c", ROOT / "constraints.txt", ROOT)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_in_a_clean_environment(tmp_path, tiny, base, extra):
    """The extra installs as docs/sweeps.md says, with Hydra below 1.4, and a killed job does not end the others."""
    settings, strengths = EXTRAS[extra]
    constraints = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    unpinned = ("cloudpickle==", "joblib==", "python-dateutil==") if extra == "ray" else ()
    pinned = [line for line in constraints if not line.startswith(unpinned)]
    (tmp_path / "constraints.txt").write_text("".join(pinned))
    made = environment(tmp_path / "venv", "-c", tmp_path / "constraints.txt", f"{ROOT}[{extra}]", base=base)
    python = made / "bin" / "python"
    version = call(python, "-c", "import hydra; print(hydra.__version__)", cwd=tmp_path)
    assert version.stdout.startswith("1.3."), version
    (tmp_path / "deadly.py").write_text(DEADLY)
    folder = tmp_path / "configs" / "aggregator" / "combine"
    folder.mkdir(parents=True)
    (folder / "deadly.yaml").write_text("# Kills\n_target_: deadly.Deadly\nstrength: 0.0\n")
    mine = ("--config-dir", "configs", "--allow-module", "deadly", "aggregator/combine=deadly")
    swept = f"aggregator.combine.strength={','.join(strengths)}"
    done = call(
        *(python, "-m", "fedsim", "run", "-m", *tiny, "threads=null", *mine, swept, *settings),
        "hydra.sweep.dir=sweep",
        cwd=tmp_path,
    )
    found = table(tmp_path / "sweep")
    killed = found["aggregator.combine.strength"] > 0.5
    assert len(found) == 4 if extra != "ray" else 2, done
    assert set(found["status"][~killed]) == {"done"}, done
    assert set(found["status"][killed]) <= {"killed"}, done
    assert done.returncode == (4 if killed.any() else 0), done
    threads = {json.loads(path.read_text())["threads"] for path in tmp_path.glob("sweep/*/summary.json")}
    if "joblib" in extra:
        assert threads == {max(1, len(allowed_cores()) // 2)}


# Resuming the folder of a sweep


def test_resuming_a_sweeps_folder_names_the_command(fedsim, refused, elsewhere, tiny):
    command = ("-m", *tiny, "seed=1,2", "console=none", "name='a b'", "hydra.sweep.subdir=job-${hydra.job.num}")
    assert fedsim("run", *command, "hydra.sweep.dir=sweep").code == 0
    line = refused("resume", "sweep")
    assert line.startswith("sweep: holds a sweep, which goes on with: fedsim run -m ")
    assert line.endswith(" --resume sweep, and sweep/job-0 is one run of it")
    said = shlex.split(line.partition("fedsim ")[2].partition(", and sweep/")[0])
    answer = fedsim(*said)
    assert answer.code == 0, answer
    (elsewhere / "sweep" / "multirun.yaml").unlink()
    assert "goes on with: fedsim run -m ... --resume sweep" in refused("resume", "sweep", "rounds=3")


def test_resuming_a_folder_of_runs_names_one_of_them(run_directory, refused, elsewhere):
    run_directory(name="a/first")
    assert refused("resume", "a") == "a: holds runs in folders of their own, such as a/first; name one of them"
    assert refused("resume", ".") == ".: holds no run (there is no config.yaml)"
