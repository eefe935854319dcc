"""Trackers: every call, with small fakes of their libraries, and what the libraries themselves read back."""

import importlib
import importlib.machinery
import json
import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.config import compose as config
from fedsim.errors import UserError
from fedsim.extras import require
from fedsim.recording.trackers import MLflow, NoTracker, TensorBoard, Wandb
from fedsim.runs import run as runner
from fedsim.runs.resume import fork_run, resume_run
from fedsim.runs.tracking import Follower, settings_of

SMALL = (
    *("data=synthetic", "data.clients=3", "data.samples_per_client=4", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=natural", "model.hidden_size=2", "client.epochs=1", "rounds=4"),
    *("engine.kernels=torch", "device=cpu", "threads=1", "console=none", "checkpoint.every=1"),
)


@pytest.fixture(autouse=True)
def _quick(one_thread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(compose):
    return lambda *overrides: compose(*SMALL, *overrides)


def start(experiment, directory="run"):
    Path(directory).mkdir()
    return runner.run_experiment(experiment, config.to_yaml(config.record_of(experiment)), Path(directory))


@pytest.fixture
def killed(monkeypatch):
    """Return ``killed(experiment, kept, logged)``: a run that dies with these rounds kept and logged."""

    def killed(experiment, kept, logged, directory="run"):
        save = runner.Recorder.save
        with monkeypatch.context() as patch:
            patch.setattr(runner.Recorder, "save", lambda self, state: state.round <= kept and save(self, state))

            def until(self, row, log=Follower.log):
                log(self, row)
                if row["round"] == logged:
                    raise KeyboardInterrupt

            patch.setattr(Follower, "log", until)
            patch.setattr(Follower, "end", lambda self, status: None)
            with pytest.raises(KeyboardInterrupt):
                start(experiment, directory)
        Path(directory, "summary.json").unlink()

    return killed


def rows(directory="run"):
    """``metrics.csv`` as ``{round: {metric: value}}``, without empty cells."""
    header, *lines = [line.split(",") for line in Path(directory, "metrics.csv").read_text().splitlines()]
    assert header[0] == "round"
    return {int(cells[0]): {k: float(v) for k, v in zip(header[1:], cells[1:], strict=True) if v} for cells in lines}


# Fakes


class Recorded(list):
    """Calls as they come: ``(name, arguments, keywords)``."""

    def __call__(self, name):
        def note(*arguments, **keywords):
            self.append((name, arguments, keywords))

        return note

    def named(self, name):
        return [(arguments, keywords) for called, arguments, keywords in self if called == name]


@pytest.fixture
def calls():
    return Recorded()


def module(monkeypatch, name, **content):
    fake = types.ModuleType(name)
    fake.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="fake")
    for key, value in content.items():
        setattr(fake, key, value)
    monkeypatch.setitem(sys.modules, name, fake)
    return fake


@pytest.fixture
def fake_tensorboard(monkeypatch, calls):
    class SummaryWriter:
        def __init__(self, folder, **keywords):
            calls.append(("open", (folder,), keywords))
            Path(folder).mkdir(exist_ok=True)
            Path(folder, "events.out.tfevents.1").touch()

        def __getattr__(self, name):
            return calls(name)

    module(monkeypatch, "tensorboard")
    module(monkeypatch, "torch.utils.tensorboard", SummaryWriter=SummaryWriter)


@pytest.fixture
def fake_mlflow(monkeypatch, calls):
    class MlflowClient:
        logged = ()

        def __init__(self, **keywords):
            calls.append(("open", (), keywords))

        def __getattr__(self, name):
            return calls(name)

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            calls.append(("create_experiment", (name,), {}))
            return "7"

        def create_run(self, experiment, **keywords):
            calls.append(("create_run", (experiment,), keywords))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

        def get_run(self, run):
            assert run == "abc"
            tags = {name: value for (_, name, value), _ in calls.named("set_tag")}
            return types.SimpleNamespace(data=types.SimpleNamespace(tags=tags))

        def get_metric_history(self, run, name):
            assert (run, name) == ("abc", "clients")
            return [batch["metrics"][0] for _, batch in calls.named("log_batch") if "metrics" in batch]

    def metric(key, value, timestamp, step):
        return types.SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    for name in ("sqlalchemy", "alembic"):
        module(monkeypatch, name)
    module(monkeypatch, "mlflow", MlflowClient=MlflowClient)
    module(monkeypatch, "mlflow.entities", Metric=metric, Param=lambda key, value: (key, value))
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)


@pytest.fixture
def fake_wandb(monkeypatch, calls):
    class Settings:
        model_fields = ("console", "silent", "disable_git", "finish_timeout")

        def __init__(self, **keywords):
            assert set(keywords) == set(self.model_fields)
            self.given = keywords

    class Run:
        id = "xyz"
        log = staticmethod(calls("log"))
        finish = staticmethod(calls("finish"))
        summary = types.SimpleNamespace(__setitem__=None)

        def __init__(self):
            self.summary = {}
            calls.append(("summary", (self.summary,), {}))

    def init(**keywords):
        calls.append(("init", (), keywords))
        return Run()

    module(monkeypatch, "wandb", Settings=Settings, init=init)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")


# What is logged


def test_a_tracker_sees_every_metric_and_changes_no_byte(make, calls, fake_tensorboard, fake_mlflow, fake_wandb):
    assert start(make(), "plain") == "done"
    for tracker in ("tensorboard", "mlflow", "wandb"):
        assert start(make(f"tracker={tracker}"), tracker) == "done"
        assert Path(tracker, "metrics.csv").read_bytes() == Path("plain/metrics.csv").read_bytes()
    assert not list(Path("plain").glob("t*r*.json"))


def test_tensorboard(make, calls, fake_tensorboard):
    assert start(make("tracker=tensorboard")) == "done"
    ((folder,), keywords) = calls.named("open")[0]
    assert Path(folder) == Path("run/tensorboard")
    assert keywords["purge_step"] is None
    logged = {}
    for (name, value, step), _ in calls.named("add_scalar"):
        assert logged.setdefault(step, {}).setdefault(name, value) == value
    assert logged == rows()
    (config_text, status), keywords = zip(*calls.named("add_text"), strict=True)
    assert config_text[0] == "config"
    assert "| `model` | GRU |" in config_text[1]
    assert "| `rounds` | 4 |" in config_text[1]
    assert status == ("status", "done", 4)
    assert calls[-1][0] == "close"


def test_mlflow(make, calls, fake_mlflow):
    assert start(make("tracker=mlflow", "tracker.experiment_name=mine", "name=first")) == "done"
    assert calls.named("open") == [((), {"tracking_uri": f"sqlite:///{Path.cwd()}/outputs/mlflow.db"})]
    assert calls.named("create_experiment") == [(("mine",), {})]
    assert calls.named("create_run") == [(("7",), {"run_name": "first"})]
    batches = [keywords for _, keywords in calls.named("log_batch")]
    params = [pair for batch in batches for pair in batch.get("params", ())]
    assert dict(params) == {key: str(value) for key, value in settings_of(make("name=first")).items()}
    assert len(dict(params)) == len(params)
    metrics = [metric for batch in batches for metric in batch.get("metrics", ())]
    logged = {step: {m.key: m.value for m in metrics if m.step == step} for step in {m.step for m in metrics}}
    assert logged == rows()
    assert calls.named("set_tag")[-1] == (("abc", "status", "done"), {})
    assert calls[-1] == ("set_terminated", ("abc", "FINISHED"), {})
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_wandb(make, calls, fake_wandb):
    assert start(make("tracker=wandb")) == "done"
    ((_, given),) = calls.named("init")
    settings = given.pop("settings").given
    assert settings["console"] == "off"
    assert settings["silent"] is True
    assert given.pop("config") == settings_of(make())
    name = f"{Path.cwd().name}/run"
    offline = {"project": "fedsim", "name": name, "dir": "run", "mode": "offline", "id": None, "resume": None}
    offline["reinit"] = "create_new"
    assert given == offline
    assert {keywords["step"]: arguments[0] for arguments, keywords in calls.named("log")} == rows()
    assert calls.named("summary") == [(({"status": "done"},), {})]
    assert calls[-1] == ("finish", (), {"exit_code": 0})
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


@pytest.mark.parametrize(
    ("status", "logged"), [("interrupted", "KILLED"), ("diverged", "FAILED"), ("stopped", "FINISHED")]
)
def test_how_a_run_ended(make, calls, fake_mlflow, fake_wandb, status, logged):
    Path("run").mkdir()
    for tracker in ("mlflow", "wandb"):
        Follower(make(f"tracker={tracker}"), Path("run")).end(status)
    assert calls.named("set_terminated") == [(("abc", logged), {})]
    assert calls.named("finish") == [((), {"exit_code": 0 if status == "stopped" else 1})]


def test_a_run_that_diverges_is_marked_as_failed(make, calls, fake_mlflow):
    assert start(make("tracker=mlflow", "client.optimizer.lr=1e30", "data.task=regression")) == "diverged"
    assert calls[-1] == ("set_terminated", ("abc", "FAILED"), {})


# Resuming


def test_tensorboard_resumes(make, calls, fake_tensorboard, killed):
    killed(make("tracker=tensorboard"), kept=1, logged=3)
    calls.clear()
    assert resume_run(Path("run")) == "done"
    assert calls.named("open")[0][1]["purge_step"] == 2
    assert sorted({step for (_, _, step), _ in calls.named("add_scalar")}) == [2, 3, 4]


def test_mlflow_resumes(make, calls, fake_mlflow, killed, tmp_path, monkeypatch):
    killed(make("tracker=mlflow"), kept=1, logged=3)
    begun = len(calls)
    monkeypatch.chdir(tmp_path.parent)  # another folder, the same store
    assert resume_run(tmp_path / "run") == "done"
    assert calls[begun] == ("open", (), {"tracking_uri": f"sqlite:///{tmp_path}/outputs/mlflow.db"})
    assert calls[begun + 1] == ("update_run", ("abc",), {"status": "RUNNING"})
    metrics = [metric for _, batch in calls.named("log_batch") for metric in batch.get("metrics", ())]
    assert len({(metric.key, metric.step) for metric in metrics}) == len(metrics)
    assert {m.step for m in metrics} == {0, 1, 2, 3, 4}
    assert len(calls.named("create_run")) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tracking_uri", "http://evil.example"),
        ("tracking_uri", "sqlite:////home/me/other.db"),
        ("run_id", "another"),
        ("settings", ["sqlite:///outputs/mlflow.db", "theirs"]),
    ],
)
def test_facts_that_disagree_with_the_config_are_ignored_and_said(
    make, calls, fake_mlflow, killed, capsys, name, value
):
    """They could send what is logged elsewhere, or into another run of the same store."""
    killed(make("tracker=mlflow"), kept=1, logged=3)
    facts = json.loads(Path("run/tracker.json").read_text())
    facts["mlflow"][name] = value
    Path("run/tracker.json").write_text(json.dumps(facts))
    sys.modules["mlflow"].MlflowClient.get_run = lambda self, run: types.SimpleNamespace(
        data=types.SimpleNamespace(
            tags={"directory": "/of/another/run" if run == "another" else str(Path("run").resolve())}
        )
    )
    capsys.readouterr()
    assert resume_run(Path("run")) == "done"
    assert {given["tracking_uri"] for _, given in calls.named("open")} == {f"sqlite:///{Path.cwd()}/outputs/mlflow.db"}
    assert not calls.named("update_run")
    assert len(calls.named("create_run")) == 2
    assert (
        "run/tracker.json: does not agree with the config and is ignored; a new one begins" in capsys.readouterr().err
    )
    again = json.loads(Path("run/tracker.json").read_text())["mlflow"]
    assert (again["run_id"], again["tracking_uri"]) == ("abc", f"sqlite:///{Path.cwd()}/outputs/mlflow.db")


def test_wandb_resumes(make, calls, fake_wandb, killed):
    killed(make("tracker=wandb"), kept=1, logged=3)
    assert resume_run(Path("run")) == "done"
    assert [keywords["step"] for _, keywords in calls.named("log")] == [0, 1, 2, 3, 4]
    assert [(given["id"], given["resume"]) for _, given in calls.named("init")] == [(None, None), ("xyz", None)]


def test_offline_rounds_are_sent_once_it_is_online(make, calls, fake_wandb, killed):
    killed(make("tracker=wandb"), kept=1, logged=3)
    calls.clear()
    assert resume_run(Path("run"), make("tracker=wandb", "tracker.mode=online")) == "done"
    assert [keywords["step"] for _, keywords in calls.named("log")] == [0, 1, 2, 3, 4]
    ((_, given),) = calls.named("init")
    assert (given["mode"], given["id"], given["resume"]) == ("online", "xyz", "allow")


def test_a_tracker_that_is_added_later_gets_the_earlier_rounds(make, calls, fake_wandb, killed):
    killed(make(), kept=2, logged=3)
    assert resume_run(Path("run"), make("tracker=wandb")) == "done"  # in place: it changes no round
    assert {keywords["step"]: arguments[0] for arguments, keywords in calls.named("log")} == rows()


def test_a_fork_is_a_new_run(make, calls, fake_wandb):
    assert start(make("tracker=wandb")) == "done"
    calls.clear()
    assert fork_run(Path("run"), make("tracker=wandb", "client.optimizer.lr=0.01", "rounds=5"), Path("fork")) == "done"
    assert calls.named("init")[0][1]["id"] is None
    assert {keywords["step"]: arguments[0] for arguments, keywords in calls.named("log")} == rows("fork")


def test_a_last_round_that_is_evaluated_late_is_logged_again(make, calls, fake_wandb, killed):
    killed(make("tracker=wandb", "eval.every=3"), kept=2, logged=2)
    assert "test_loss" not in rows()[2]
    assert resume_run(Path("run"), make("tracker=wandb", "eval.every=3", "rounds=2")) == "done"
    assert "test_loss" in rows()[2]
    assert calls.named("log")[-1] == ((rows()[2],), {"step": 2})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"wandb": 3}', '{"mlflow": {}}', '{"wandb": {"project": "fedsim"}}']
)
def test_unusable_facts_make_a_new_run(make, calls, fake_wandb, killed, content):
    killed(make("tracker=wandb"), kept=1, logged=3)
    Path("run/tracker.json").write_text(content)
    calls.clear()
    assert resume_run(Path("run")) == "done"
    assert calls.named("init")[0][1]["id"] is None
    assert [keywords["step"] for _, keywords in calls.named("log")] == [0, 1, 2, 3, 4]


# What goes wrong


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_failing_tracker_is_reported_once_and_does_not_stop_the_run(make, fake_wandb, capsys, monkeypatch, broken):
    assert start(make(), "plain") == "done"

    def fail(*_, **__):
        raise RuntimeError("the server\nis gone")

    fake = sys.modules["wandb"]
    if broken == "init":
        monkeypatch.setattr(fake, "init", fail)
    else:
        run = fake.init()
        monkeypatch.setattr(type(run), broken, staticmethod(fail))
    assert start(make("tracker=wandb")) == "done"
    error = capsys.readouterr().err
    expected = (
        "warning: tracker=wandb: the server is gone; the run goes on without it, and metrics.csv has everything\n"
    )
    assert error == expected
    assert Path("run/metrics.csv").read_bytes() == Path("plain/metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("tracker", "missing", "words"),
    [
        ("tensorboard", "tensorboard", "needs tensorboard; install with: python -m pip install 'tensorboard>="),
        ("mlflow", "mlflow", "needs mlflow; install with: python -m pip install 'mlflow-skinny>="),
        ("mlflow", "alembic", "needs alembic; install with: python -m pip install 'mlflow-skinny>="),
        ("wandb", "wandb", "needs wandb; install with: python -m pip install 'wandb>="),
    ],
)
def test_a_missing_library(make, fake_mlflow, monkeypatch, tracker, missing, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(UserError, match=f"tracker={tracker}: needs {missing}; ") as refused:
        make(f"tracker={tracker}").tracker.check()
    assert words in str(refused.value)
    assert f"(the extra '{tracker}')" in str(refused.value)


def test_a_folder_of_the_same_name_is_not_a_library(monkeypatch):
    Path("not_installed").mkdir()
    monkeypatch.syspath_prepend(Path.cwd())
    assert importlib.util.find_spec("not_installed") is not None
    with pytest.raises(UserError, match="needs not_installed"):
        require("x", "wandb", "not_installed")


def test_a_server_needs_no_database(make, fake_mlflow, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "alembic" else find(name))
    MLflow("http://127.0.0.1:5000").check()


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (MLflow, {"tracking_uri": "mlruns"}, "tracking_uri=mlruns: must be sqlite:///FILE or http"),
        (MLflow, {"tracking_uri": "sqlite:///"}, "must be sqlite:///FILE"),
        (MLflow, {"tracking_uri": "file:mlruns"}, "must be sqlite:///FILE"),
        (MLflow, {"tracking_uri": "http://"}, "must name a host"),
        (
            MLflow,
            {"tracking_uri": "https://me:secret@host"},
            "tracking_uri=https://...: must name a host and hold no pass",
        ),
        (MLflow, {"experiment_name": " "}, "experiment_name= : must not be empty"),
        (Wandb, {"mode": "on"}, "mode=on: must be one of offline, online"),
        (Wandb, {"project": "a/b"}, "project=a/b: must not be empty or contain"),
    ],
)
def test_refused_settings(cls, settings, words):
    with pytest.raises(UserError) as refused:
        cls(**settings)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_settings_are_flat_and_plain(make):
    settings = settings_of(make("tags=[a,b]", "tracker=mlflow"))
    assert settings["model"] == "GRU"
    assert settings["aggregator.combine"] == "Weighted"
    assert settings["tags"] == "['a', 'b']"
    assert settings["stop.patience"] == "null"
    assert not any(key.startswith("tracker") for key in settings)
    assert all(isinstance(value, str | int | float | bool) for value in settings.values())


def test_no_tracker_does_nothing(make):
    assert NoTracker().check() is None
    assert replace(make(), tracker=NoTracker()) == make()
    assert TensorBoard() == make("tracker=tensorboard").tracker


# The libraries themselves


def scalars():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator("run/tensorboard", size_guidance={"scalars": 0})
    found.Reload()
    logged = {}
    for name in found.Tags()["scalars"]:
        for event in found.Scalars(name):
            assert name not in logged.setdefault(event.step, {})
            logged[event.step][name] = event.value
    return logged


def test_tensorboard_itself(make, killed):
    pytest.importorskip("tensorboard")
    killed(make("tracker=tensorboard"), kept=1, logged=3)
    assert resume_run(Path("run")) == "done"
    expected = rows()
    found = scalars()
    assert found.keys() == expected.keys()
    for number, metrics in expected.items():
        assert found[number] == pytest.approx(metrics, rel=1e-6)  # they are float32 there


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_mlflow_itself(make, killed, monkeypatch):
    for name in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(name)
    killed(make("tracker=mlflow"), kept=1, logged=3)
    assert resume_run(Path("run")) == "done"
    facts = json.loads(Path("run/tracker.json").read_text())["mlflow"]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=facts["tracking_uri"])
    run = client.get_run(facts["run_id"])
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "done")
    assert run.data.params["model"] == "GRU"
    for name in rows()[4]:
        history = [(metric.step, metric.value) for metric in client.get_metric_history(facts["run_id"], name)]
        assert sorted(history) == [(number, metrics[name]) for number, metrics in rows().items() if name in metrics]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_wandb_itself(make, killed):
    pytest.importorskip("wandb")
    killed(make("tracker=wandb"), kept=1, logged=3)
    assert resume_run(Path("run")) == "done"
    facts = json.loads(Path("run/tracker.json").read_text())["wandb"]
    assert facts["logged"] == 4
    parts = list(Path("run/wandb").glob(f"offline-run-*-{facts['id']}"))
    assert any(file.stat().st_size > 0 for part in parts for file in part.glob("*.wandb"))
