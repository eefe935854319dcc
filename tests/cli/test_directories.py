"""Where a run writes: nothing before the directory is its own, and nothing over what is there."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from fedsim.config import compose as config
from fedsim.recording.lock import locked
from fedsim.runs import run as runner
from fedsim.runs import sweep


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_second_run_leaves_no_trace_in_a_directory_that_is_in_use(fedsim, elsewhere, tiny):
    (elsewhere / "run").mkdir()
    with locked(elsewhere / "run"):
        answer = fedsim("run", *tiny, "aggregator=median", "hydra.run.dir=run")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: run: in use by process ") or "/run: in use by process " in answer.err
    assert answer.err.count("\n") == 1
    assert files("run") == {}


def test_a_run_that_began_meanwhile_is_left_as_it_is(fedsim, elsewhere, tiny, monkeypatch):
    """The directory is free when the command is checked, and holds a run when the lock is taken."""

    def late(directory, key):
        folder = Path(directory)
        (folder / "metrics.csv").write_text("round\n")
        original(directory, key)

    original = runner.refuse_used
    monkeypatch.setattr(runner, "refuse_used", late)
    answer = fedsim("run", *tiny, "hydra.run.dir=run")
    assert answer.code == 2
    assert "already holds a run (metrics.csv)" in answer.err
    assert [path.name for path in files("run")] == ["metrics.csv"]


def test_hydras_record_is_written_by_the_run(run_directory, elsewhere):
    directory = run_directory("aggregator=median", "seed=3")
    found = {path.name: yaml.safe_load(path.read_text()) for path in (directory / ".hydra").iterdir()}
    assert sorted(found) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert {"aggregator=median", "seed=3"} <= set(found["overrides.yaml"])
    assert found["config.yaml"]["seed"] == 3
    assert "hydra" not in found["config.yaml"]
    hydra = found["hydra.yaml"]["hydra"]
    assert hydra["runtime"]["choices"]["aggregator"] == "median"
    assert hydra["runtime"]["cwd"] == str(elsewhere)


WRITTEN = (
    *("clients.csv", "summary.json", "timing.csv", "resumed.json", "tracker.json"),
    *("checkpoints/round_000001.safetensors", ".hydra/config.yaml", "metrics.csv", "config.yaml"),
)


@pytest.mark.parametrize("name", WRITTEN)
def test_no_run_begins_over_files_of_another(refused, elsewhere, tiny, name):
    file = elsewhere / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    assert refused("run", *tiny, "hydra.run.dir=run").startswith("hydra.run.dir=run: already holds ")
    assert file.read_text() == "precious"


def test_a_run_writes_no_file_that_is_not_checked(run_directory):
    """Of everything in a finished run's directory only ``run.log``, to which is appended, may be there before."""
    directory = run_directory()
    kinds = {path.name for path in directory.iterdir()}
    assert kinds - {"run.log"} == {name.split("/")[0] for name in WRITTEN} - {"resumed.json", "tracker.json"}


def test_files_of_other_programs_do_not_matter(run_directory, elsewhere):
    (elsewhere / "run" / "checkpoints").mkdir(parents=True)  # empty
    (elsewhere / "run" / "notes.txt").write_text("mine")
    assert run_directory().joinpath("notes.txt").read_text() == "mine"


# Sweeps


def test_a_second_sweep_does_not_replace_the_table_of_the_first(fedsim, refused, tiny):
    command = ("run", "-m", *tiny, "console=none", "hydra.sweep.dir=sweep")
    assert fedsim(*command, "seed=1,2").code == 0
    line = refused(*command, "seed=3,4", "hydra.sweep.subdir=b${hydra.job.num}")
    assert line == (
        "hydra.sweep.dir=sweep: already holds a sweep (sweep.yaml); choose another folder, or finish that sweep by "
        "repeating its command with --resume sweep"
    )


def test_two_sweeps_at_once_in_one_folder(fedsim, elsewhere, tiny):
    (elsewhere / "sweep").mkdir()
    with locked(elsewhere / "sweep"):
        answer = fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep")
    assert answer.code == 2
    assert "sweep: in use by process " in answer.err
    assert files("sweep") == {}


@pytest.mark.parametrize("subdir", ["''", "."])
def test_a_job_needs_a_directory_of_its_own(refused, tiny, subdir):
    line = refused("run", "-m", *tiny, "seed=1", f"hydra.sweep.subdir={subdir}")
    assert line.endswith("must give each job of a sweep a directory of its own")


def test_a_silent_worker_that_is_killed_keeps_the_console_in_its_record(fedsim, elsewhere, tiny, monkeypatch, capsys):
    """Jobs that run side by side show nothing; one that was killed is resumed likewise."""
    experiment = config.check_request(config.normalise(config.Request((*tiny, "rounds=4", "checkpoint.every=1"))))[0]
    record, folder = runner.Recorder.record, elsewhere / "job"
    folder.mkdir()

    def interrupted(self, result, state):
        record(self, result, state)
        if state.round == 2:
            raise KeyboardInterrupt

    def run_job():
        return sweep.run_job(experiment.experiment, folder, {}, share=None, silent=True, objective=None)

    with monkeypatch.context() as patch:
        patch.setattr(runner.Recorder, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_job()
    before = (folder / "config.yaml").read_bytes()
    (folder / "summary.json").unlink()  # as if it had been killed
    capsys.readouterr()
    assert run_job() == "done"
    assert capsys.readouterr().out == ""
    assert (folder / "config.yaml").read_bytes() == before
    assert yaml.safe_load(before)["console"]["mode"] == "plain"
    assert json.loads((folder / "summary.json").read_text())["resumed"][0]["changed"] == {}


# The directory of a fork


GRAMMAR = {
    r"hydra.run.dir=out/lr\=0.1": "out/lr=0.1",
    "hydra.run.dir='a b'": "a b",
    "hydra.run.dir=h${model.hidden_size}/e${client.epochs}": "h2/e2",
    "hydra.run.dir=d/${hydra.job.override_dirname}": "d/client.epochs=2",
}


@pytest.mark.parametrize("text", GRAMMAR)
def test_a_forks_directory_is_read_as_a_runs(fedsim, run_directory, elsewhere, tiny, text):
    directory = run_directory()
    assert fedsim("resume", directory, "client.epochs=2", text).code == 0
    fork = elsewhere / GRAMMAR[text]
    assert yaml.safe_load((fork / "config.yaml").read_text())["client"]["epochs"] == 2
    shutil.rmtree(elsewhere / GRAMMAR[text].split("/")[0])
    if "override_dirname" not in text:  # there it names the overrides of the run, which are more
        overrides = [one for one in tiny if not one.startswith("client.epochs")]
        assert fedsim("run", *overrides, "client.epochs=2", text).code == 0
        assert (fork / "config.yaml").exists()


NAMELESS = {
    "hydra.run.dir=": "hydra.run.dir='': must name a directory (. is the one you are in)",
    "hydra.run.dir=''": "hydra.run.dir='': must name a directory (. is the one you are in)",
    "hydra.run.dir=null": "hydra.run.dir=null: must name a directory; leave it out for the default",
    "hydra.run.dir=a,b": "hydra.run.dir=a,b: is the same for all jobs of a sweep and takes one value; quotes keep the "
    "commas of a name: \"hydra.run.dir='...'\"",
}


@pytest.mark.parametrize("text", NAMELESS)
def test_a_directory_without_a_name(refused, run_directory, tiny, text):
    assert refused("run", *tiny, text) == NAMELESS[text]
    directory = run_directory()
    assert refused("resume", directory, "client.epochs=2", text) == NAMELESS[text]


def test_a_sweep_folder_without_a_name(refused, tiny):
    assert refused("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=").startswith("hydra.sweep.dir='': must name")


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "/".join(["a" * 200] * 20)])
def test_a_name_that_is_too_long_for_the_files_of_a_run(refused, tiny, name):
    assert "is too long for the name of a directory" in refused("run", *tiny, f"hydra.run.dir={name}")
    assert "is too long for the name of a directory" in refused(
        "run", "-m", *tiny, f"hydra.sweep.dir={name}", "seed=1,2"
    )
