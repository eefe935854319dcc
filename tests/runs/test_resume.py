"""A run that is broken off anywhere and taken up again gives the bytes of one that was not."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from fedsim.config import compose as config
from fedsim.core.stopping import Stop
from fedsim.recording.settings import Checkpoint
from fedsim.runs import fit, resume
from fedsim.runs import run as runner
from fedsim.runs.record import run_state
from fedsim.runs.resume import fork_run, resume_run
from fedsim.server.schedules import InverseSqrt

SMALL = (
    *("data=synthetic", "data.clients=10", "data.samples_per_client=4", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=natural", "model.hidden_size=2", "client.epochs=1", "rounds=4"),
    *("client.batch_size=2", "engine.kernels=torch", "device=cpu", "threads=1", "console=none", "checkpoint.every=1"),
)
KEEPING = "client.keep_optimizer_state=true"
FITTED = ("model.hidden_size=null", "model.parameters=100")
GROUPS = ("aggregator", "aggregator/combine", "aggregator/correction", "aggregator/server_optimizer")
ALSO = (
    *(
        ("client/optimizer", (KEEPING,)),
        ("sampler", ("aggregator=feddyn",)),
        ("engine", (KEEPING, "client.optimizer.momentum=0.5", "aggregator=fedadam")),
    ),
    ("aggregator/correction", ("aggregator.blocks=[recurrent]",)),
    *(("model", ("model.dropout=0.3", "model.num_layers=2")), ("model", FITTED), ("personalize", ()), ("client", ())),
    *(("stop", ("stop.patience=9",)), ("aggregator/server_optimizer/schedule", ("rounds=12",)), ("baseline", ())),
    *(("link", ()), ("link/up", ("aggregator=mean",)), ("link/down", ("aggregator=mean",))),
    ("audit", ()),
    *(("attack", ("aggregator=median",)), ("privacy", ("aggregator=mean", "sampler=poisson"))),
    ("schedule", ("system=devices", "system.gflops_spread=2", "system.dropout=0.2", "sampler.fraction=0.5")),
    ("schedule/staleness", ("schedule=fedbuff", "system=devices", "system.gflops_spread=2")),
    ("system", ("sampler.fraction=0.5", "aggregator=scaffold", "link/down=quantize")),
)
NEEDS = {
    **dict.fromkeys(
        ("aggregator=fedsgd", "client=full_batch"), ("client.epochs=null", "client.steps=1", "client.batch_size=null")
    ),
    "client/optimizer=sgd": ("client.optimizer.momentum=0.5",),
    "aggregator=local": ("personalize=none",),
    **dict.fromkeys(("aggregator/correction=fedrep", "aggregator/correction=fedbabu"), ("aggregator.blocks=[-head]",)),
    "schedule=flhc": ("schedule.after=2",),
    "schedule=hierfavg": ("schedule.backhaul_mbps=1", "schedule.cloud_every=3"),
    "sampler=power_of_choice": ("sampler.fraction=0.25",),
    "attack=alie": ("attack.z=1",),
    "privacy=central_dp_adaptive": ("privacy.count_noise=5",),
    **dict.fromkeys(("privacy=dp_ftrl", "privacy=matrix_factorisation"), ("sampler=min_separation",)),
    "privacy=none": ("sampler=uniform",),
    "audit=inversion": ("client.epochs=null", "client.steps=1", "client.batch_size=1", "audit.round=3"),
    "system=devices": ("system.over_selection=1.5", "system.dropout=0.2", "system.availability=0.8"),
    "system=profiles": ("system.path=devices.csv", "system.deadline=1.1", "system.late=partial"),
}


# The second takes a sixth of a second for a sample, so that a deadline of 1.1 s leaves it one local step of two.
DEVICES = "gflops,down_mbps,up_mbps\n1,20,5\n0.000003,0.01,0.01\n"


def options():
    """Every option of every group that has a part in the rounds, and what else it takes."""
    every = config.list_options()
    for group, more in [*((group, ()) for group in GROUPS), *ALSO]:
        for option in every[group]:
            chosen = f"{group}={option}"
            if chosen == "audit=tokens":  # needs text, and is heard as audit=inversion is
                continue
            if chosen == "schedule=dpsgd":  # has no server for which devices or a sampler would be
                yield pytest.param((chosen, "aggregator=mean", "schedule.graph=random_regular"), id=chosen)
                continue
            yield pytest.param((chosen, *more, *NEEDS.get(chosen, ())), id=chosen)


@pytest.fixture(autouse=True)
def _quick(one_thread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(compose):
    """Return ``make(*overrides)``: a small experiment."""

    def make(*overrides):
        sequential = "engine=sequential" in overrides
        small = [text for text in SMALL if not (sequential and text.startswith("engine."))]
        return compose(*small, *overrides)

    return make


def start(experiment, directory):
    Path(directory).mkdir()
    return runner.run_experiment(experiment, config.to_yaml(config.record_of(experiment)), Path(directory))


@pytest.fixture
def broken_off(monkeypatch):
    """Return ``broken_off(experiment, directory, rounds)``: a run that ends in the middle of a row."""

    def broken_off(experiment, directory, rounds):
        record = runner.Recorder.record

        def until(self, result, state):
            if state.round > rounds:
                self._metrics._file.write(b"3,8,0.12")
                raise KeyboardInterrupt
            record(self, result, state)

        with monkeypatch.context() as patch:
            patch.setattr(runner.Recorder, "record", until)
            with pytest.raises(KeyboardInterrupt):
                start(experiment, directory)
        return Path(directory)

    return broken_off


def content(directory, *names):
    return [(Path(directory) / name).read_bytes() for name in names]


def same(one, other):
    assert content(one, "metrics.csv", "clients.csv") == content(other, "metrics.csv", "clients.csv")


def points(directory):
    return json.loads((Path(directory) / "summary.json").read_text())["resumed"]


# To the byte


@pytest.mark.parametrize("overrides", list(options()))
def test_every_option_goes_on_to_the_byte(make, broken_off, overrides):
    Path("devices.csv").write_text(DEVICES)
    experiment = make(*overrides)
    assert start(experiment, "whole") == "done"
    directory = broken_off(experiment, "broken", 2)
    assert resume_run(directory) == "done"
    same("whole", "broken")
    assert (directory / "metrics.csv").read_text().count("\n") == experiment.rounds + 2
    assert [point["after_round"] for point in points(directory)] == [2]


def test_no_group_is_left_out():
    tested = {*GROUPS, *(group for group, _ in ALSO)}
    assert set(config.list_options()) - tested == {
        "data",
        "partition",
        "checkpoint",
        "console",
        "tracker",
        "experiment",
    }


@pytest.mark.parametrize("every", [1, 2, 3, 7])
@pytest.mark.parametrize("until", [1, 2, 3, 4, 6])
def test_more_rounds_are_those_of_a_longer_run(make, until, every):
    """The last round is evaluated whatever `eval.every` says, and must not be once it is not the last."""
    longer = make("rounds=7", f"eval.every={every}", "aggregator=fedadam")
    assert start(longer, "whole") == "done"
    assert start(replace(longer, rounds=until), "short") == "done"
    assert resume_run(Path("short"), longer) == "done"
    same("whole", "short")
    assert content("whole", "config.yaml") == content("short", "config.yaml")
    assert points("short")[0]["changed"] == {"rounds": [until, 7]}
    assert not list(Path("short/checkpoints").glob("*.unusable"))


def test_fewer_rounds_end_where_the_run_is(make, broken_off):
    shorter = make("rounds=4", "eval.every=3")
    assert start(shorter, "whole") == "done"
    directory = broken_off(replace(shorter, rounds=9), "broken", 4)
    assert resume_run(directory, replace(shorter, rounds=4)) == "done"
    same("whole", "broken")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_patience_goes_on_counting(make, broken_off, mode):
    experiment = make("rounds=9", "stop.patience=3", "stop.metric=test_loss", f"stop.mode={mode}")
    status = start(experiment, "whole")
    assert status == ("stopped" if mode == "max" else "done")
    directory = broken_off(experiment, "broken", 2)
    assert resume_run(directory) == status
    same("whole", "broken")
    ends = [json.loads(Path(name, "summary.json").read_text()) for name in ("whole", "broken")]
    assert [end["best"] for end in ends] == [ends[0]["best"]] * 2
    assert [end["final"] for end in ends] == [ends[0]["final"]] * 2


def test_a_run_that_stopped_early_goes_on_with_another_stop(make, capsys):
    patient = make("rounds=6")
    impatient = replace(patient, stop=Stop(metric="test_loss", mode="max", patience=1))
    other = replace(patient, stop=Stop(metric="train_loss", patience=90))
    assert start(other, "whole") == "done"
    assert start(impatient, "run") == "stopped"
    assert run_state(Path("run"), impatient) == "done"
    before = content("run", "metrics.csv", "summary.json")
    assert resume_run(Path("run")) == "stopped"
    assert content("run", "metrics.csv", "summary.json") == before
    assert run_state(Path("run"), other) == "interrupted"
    assert resume_run(Path("run"), other) == "done"
    same("whole", "run")
    best = json.loads(Path("run/summary.json").read_text())["best"]
    assert best == json.loads(Path("whole/summary.json").read_text())["best"]
    assert best["metric"] == "train_loss"


def test_the_best_checkpoint_stays(make, broken_off):
    experiment = make("rounds=7", "stop.metric=bytes_up", "stop.mode=min")  # the first is the best
    directory = broken_off(experiment, "broken", 4)
    assert resume_run(directory) == "done"
    names = sorted(path.stem for path in (directory / "checkpoints").iterdir())
    assert names == ["round_000001", "round_000006", "round_000007"]


def test_time_goes_on(make, broken_off):
    directory = broken_off(make(), "broken", 2)
    with (directory / "timing.csv").open("a") as file:
        file.write("3,0.1,0.1,77\n4,0.")
    resume_run(directory)
    rows = [line.split(",") for line in (directory / "timing.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["round", "0", "1", "2", "3", "4"]
    elapsed = [float(row[-1]) for row in rows[1:]]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] < 70


# Files that were cut off


@pytest.fixture(scope="module")
def killed(compose, tmp_path_factory):
    """A run of 6 rounds as SIGKILL leaves it after 4, and the metrics.csv of the whole one."""
    folder = tmp_path_factory.mktemp("killed")
    experiment = compose(*SMALL, "rounds=6", "aggregator=scaffold")
    start(experiment, folder / "whole")
    start(replace(experiment, rounds=4), folder / "run")
    (folder / "run" / "config.yaml").write_text(config.to_yaml(config.record_of(experiment)))
    for name in ("summary.json", "clients.csv"):
        (folder / "run" / name).unlink()
    return folder


def cuts(text):
    """Places in a file where a write may end: in a header, in a row, at its end, in the middle of a number."""
    ends = [place + 1 for place, byte in enumerate(text) if byte == ord("\n")]
    return sorted({0, 1, *(place + offset for place in ends for offset in (-1, 0, 5)), len(text) - 2})


def test_a_metrics_csv_cut_anywhere(killed, tmp_path, capfd):
    text = (killed / "run" / "metrics.csv").read_bytes()
    for number, place in enumerate(place for place in cuts(text) if place <= len(text)):
        directory = Path(shutil.copytree(killed / "run", tmp_path / f"run{number}"))
        (directory / "metrics.csv").write_bytes(text[:place])
        assert resume_run(directory) == "done"
        same(killed / "whole", directory)
        warned = capfd.readouterr().err
        assert ("round_000004.safetensors: it belongs to another run, or " in warned) == (place < len(text))
        assert warned.count("\n") == warned.count("warning: ")


def test_more_than_the_checkpoint_knows_is_cut_off(killed, tmp_path, capfd):
    for number, more in enumerate([b"5", b"5,8,1.2", b"5,8,1\n", b"\x00\xff\n\n", b"5,8,1\n6,8,1\n"]):
        directory = Path(shutil.copytree(killed / "run", tmp_path / f"run{number}"))
        with (directory / "metrics.csv").open("ab") as file:
            file.write(more)
        assert resume_run(directory) == "done"
        same(killed / "whole", directory)
    assert capfd.readouterr().err == ""


def test_a_checkpoint_cut_anywhere(killed, tmp_path, capfd):
    good = (killed / "run" / "checkpoints" / "round_000004.safetensors").read_bytes()
    for number, place in enumerate([0, 1, 7, 8, 9, 100, len(good) // 2, len(good) - 1]):
        directory = Path(shutil.copytree(killed / "run", tmp_path / f"run{number}"))
        path = directory / "checkpoints" / "round_000004.safetensors"
        path.write_bytes(good[:place])
        assert resume_run(directory) == "done"
        same(killed / "whole", directory)
        warned = capfd.readouterr().err
        assert warned.startswith(f"warning: {path}: cannot be read as a checkpoint")
        assert warned.count("\n") == 1
        assert points(directory)[0]["after_round"] == 3
        assert (path.parent / f"{path.name}.unusable").read_bytes() == good[:place]


def test_a_checkpoint_of_another_run(killed, compose, tmp_path, capfd):
    other = compose(*SMALL, "rounds=6", "aggregator=scaffold", "seed=3")
    start(other, "other")
    directory = Path(shutil.copytree(killed / "run", tmp_path / "run"))
    foreign = directory / "checkpoints" / "round_000006.safetensors"
    shutil.copy("other/checkpoints/round_000006.safetensors", foreign)
    misnamed = directory / "checkpoints" / "round_000005.safetensors"
    shutil.copy(directory / "checkpoints" / "round_000004.safetensors", misnamed)
    assert resume_run(directory) == "done"
    same(killed / "whole", directory)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert f"warning: {foreign}: it belongs to another run" in lines[0]
    assert lines[1] == f"warning: {misnamed}: is of round 4; it is not used"


def test_without_any_checkpoint_it_starts_over_and_says_so(killed, tmp_path, capfd):
    directory = Path(shutil.copytree(killed / "run", tmp_path / "run"))
    shutil.rmtree(directory / "checkpoints")
    assert resume_run(directory) == "done"
    same(killed / "whole", directory)
    assert "there is no usable checkpoint; starting over from round 0" in capfd.readouterr().err


@pytest.mark.parametrize("lost", ["metrics.csv", "timing.csv", "run.log"])
def test_files_that_are_lost(killed, tmp_path, lost):
    directory = Path(shutil.copytree(killed / "run", tmp_path / "run"))
    (directory / lost).unlink(missing_ok=True)
    assert resume_run(directory) == "done"
    same(killed / "whole", directory)


def test_killed_between_the_last_checkpoint_and_the_summary(killed, tmp_path):
    directory = Path(shutil.copytree(killed / "whole", tmp_path / "run"))
    before = content(directory, "metrics.csv", "clients.csv")
    for name in ("summary.json", "clients.csv"):
        (directory / name).unlink()
    assert run_state(directory) == "interrupted"
    assert resume_run(directory) == "done"
    assert content(directory, "metrics.csv", "clients.csv") == before
    assert run_state(directory) == "done"


def test_what_a_write_left_half_done_goes(killed, tmp_path):
    directory = Path(shutil.copytree(killed / "run", tmp_path / "run"))
    for name in (".config.yaml.partial", "checkpoints/.round_000005.safetensors.partial"):
        (directory / name).write_bytes(b"half")
    resume_run(directory)
    assert not list(directory.rglob("*.partial"))


# Forks


def test_a_fork_goes_on_elsewhere(make):
    experiment = make("aggregator=fedadam")
    start(experiment, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    forked = replace(experiment, rounds=6, client=replace(experiment.client, batch_size=1), name="smaller")
    assert fork_run(Path("run"), forked, Path("fork")) == "done"
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    rows = Path("fork/metrics.csv").read_text()
    assert rows.startswith(Path("run/metrics.csv").read_text())
    assert rows.count("\n") == 8
    (point,) = points("fork")
    assert point["changed"] == {"client.batch_size": [2, 1], "rounds": [4, 6], "name": [None, "smaller"]}
    assert (point["after_round"], point["fork_of"]) == (4, str(Path("run").resolve()))


def test_a_fork_that_is_killed_goes_on_as_one(make, broken_off, capfd):
    experiment = make("rounds=3")
    start(experiment, "run")
    forked = replace(experiment, rounds=8, client=replace(experiment.client, batch_size=1))
    fork_run(Path("run"), forked, Path("whole"))
    fork_run(Path("run"), replace(forked, rounds=5), Path("fork"))
    shutil.copytree("fork", "bare")
    assert resume_run(Path("fork"), forked) == "done"
    same("whole", "fork")
    assert [point["after_round"] for point in points("fork")] == [3, 5]
    shutil.rmtree("bare/checkpoints")
    assert resume_run(Path("bare"), forked) == "refused"  # from round 0 it would be another run
    assert "is a fork of" in capfd.readouterr().err
    assert Path("bare/summary.json").exists()


MISFITS = {
    "model.hidden_size=3": "model: ",
    "dtype=float64": "the clients do not hold the samples",
    "model=lstm": "model: ",
    "model.parameters=200": "model: ",
    "aggregator=fedadam": "aggregator.server_optimizer: ",
    "aggregator/correction=scaffold": "aggregator.correction: ",
    "aggregator.blocks=[recurrent]": "aggregator.blocks: ",
    "personalize=ditto": "personalize: ",
    "seed=5": "the clients do not hold the samples",
    "partition=iid": "the clients do not hold the samples",
    "client.validation_fraction=0.5": "the clients do not hold the samples",
    "data.task=regression": "the clients do not hold the samples",
}


@pytest.mark.parametrize("change", MISFITS)
def test_forks_that_do_not_fit(make, capfd, change):
    start(make(), "run")
    more = ["model.hidden_size=null"] if change.startswith("model.parameters") else []
    assert fork_run(Path("run"), make(change, *more), Path("fork")) == "refused"
    assert capfd.readouterr().err.startswith(f"error: {MISFITS[change]}")
    assert not Path("fork").exists()


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        (("privacy.noise_multiplier=2",), "privacy.noise_multiplier: "),
        (("privacy.clip_norm=0.5",), "privacy.clip_norm: "),
        (("sampler.fraction=0.5",), "sampler.fraction: "),
        (("sampler=poisson",), "sampler"),
        (("privacy=none",), "privacy"),
    ],
)
def test_privacy_does_not_change_within_a_run(make, capfd, changed, keys):
    """An accountant composes equal rounds: of rounds of two kinds its epsilon would be neither's."""
    private = ("aggregator=mean", "privacy=central_dp")
    start(make(*private), "run")
    assert fork_run(Path("run"), make(*private, *changed), Path("fork")) == "refused"
    err = capfd.readouterr().err
    assert err.startswith(f"error: {keys}")
    assert "epsilon is that of all rounds under one setting" in err
    assert not Path("fork").exists()
    assert fork_run(Path("run"), make(*private, "rounds=5", "client.batch_size=1"), Path("fork")) == "done"


def test_privacy_does_not_begin_within_a_run(make, capfd):
    start(make("aggregator=mean"), "run")
    assert fork_run(Path("run"), make("aggregator=mean", "privacy=central_dp"), Path("fork")) == "refused"
    assert "epsilon is that of all rounds" in capfd.readouterr().err


def test_a_fork_keeps_its_schedule(make, capfd):
    start(make("system=devices"), "run")
    assert fork_run(Path("run"), make("system=devices", "schedule=fedbuff"), Path("fork")) == "refused"
    assert capfd.readouterr().err.startswith("error: schedule: ")


def test_a_fork_needs_a_new_directory_and_a_checkpoint(make, capfd):
    start(make("checkpoint.every=null"), "run")
    other = make("name=other")
    assert fork_run(Path("run"), other, Path("fork")) == "refused"
    assert "has no checkpoint to fork from" in capfd.readouterr().err
    assert not Path("fork").exists()
    start(make(), "good")
    assert fork_run(Path("good"), other, Path("run")) == "refused"
    assert "hydra.run.dir=run: already holds a run" in capfd.readouterr().err


def test_names_for_forks(tmp_path):
    assert resume.free_directory(tmp_path / "run") == tmp_path / "run-fork-1"
    (tmp_path / "run-fork-1").mkdir()
    assert resume.free_directory(tmp_path / "run") == tmp_path / "run-fork-2"


# What is refused


@dataclass(frozen=True)
class Ramp(InverseSqrt):
    """A part of somebody's that depends on the round limit, or not, by its settings."""

    steep: bool = True

    @property
    def depends_on_rounds(self):
        return self.steep


def test_rounds_are_fixed_where_a_part_depends_on_them(make, capfd):
    cosine = make("aggregator/server_optimizer/schedule=cosine")
    assert cosine.bound_to_rounds() == ["aggregator.server_optimizer.schedule"]
    assert make().bound_to_rounds() == []
    start(cosine, "run")
    before = content("run", "metrics.csv", "summary.json", "config.yaml")
    for rounds in (6, 3):
        assert resume_run(Path("run"), replace(cosine, rounds=rounds)) == "refused"
        line = capfd.readouterr().err
        assert line.startswith(
            f"error: rounds={rounds}: aggregator.server_optimizer.schedule depends on the round limit"
        )
        assert fork_run(Path("run"), replace(cosine, rounds=rounds, name="x"), Path("fork")) == "refused"
        capfd.readouterr()
    assert content("run", "metrics.csv", "summary.json", "config.yaml") == before

    def scheduled(schedule):
        optimizer = replace(cosine.aggregator.server_optimizer, schedule=schedule)
        return replace(cosine, aggregator=replace(cosine.aggregator, server_optimizer=optimizer))

    assert scheduled(Ramp()).bound_to_rounds() == ["aggregator.server_optimizer.schedule"]
    assert scheduled(Ramp(steep=False)).bound_to_rounds() == []


def test_other_changes_within_a_run(make, capfd):
    start(make(), "run")
    assert resume_run(Path("run"), make("client.optimizer.lr=0.5", "rounds=9")) == "refused"
    assert "client.optimizer.lr cannot change within a run" in capfd.readouterr().err
    assert resume_run(Path("run"), make("rounds=2")) == "refused"
    assert "rounds=2: run has done 4 already" in capfd.readouterr().err


def test_other_data_are_refused(compose, tmp_path, capfd):
    play = tmp_path / "play.txt"
    play.write_text("ANNA:\nthe sea is wide and the night is long.\n\nBORIS:\nno star at all\n")
    text = ("data=text", f"data.path={play}", "data.sequence_length=5", "partition=natural", "model.hidden_size=2")
    few = (*text, "rounds=2", "engine.kernels=torch", "device=cpu", "threads=1", "console=none")
    experiment = compose(*few)
    start(experiment, "run")
    assert resume_run(Path("run"), replace(experiment, rounds=3)) == "done"
    from fedsim.data.source import load_dataset

    load_dataset.cache_clear()
    play.write_text("ANNA:\nthe sea is wild and the night is long.\n\nBORIS:\nno star at all\n")
    assert resume_run(Path("run"), replace(experiment, rounds=4)) == "refused"
    assert "the clients do not hold the samples with which the run began" in capfd.readouterr().err


def test_other_versions_and_threads_are_told(make, broken_off, monkeypatch, capfd):
    experiment = make()
    directory = broken_off(experiment, "broken", 2)
    for module in (fit, resume):
        monkeypatch.setattr(module, "versions", lambda: runner.versions() | {"torch": "9.9", "fedsim": "8.8"})
    assert resume_run(directory, replace(experiment, threads=2)) == "done"
    warned = capfd.readouterr().err
    assert warned.count("\n") == 1
    for words in ("warning: not as when the checkpoint was written: fedsim ", " -> 9.9", "threads 1 -> 2"):
        assert words in warned
    (point,) = points(directory)
    assert (point["threads"], point["versions"]["torch"], point["changed"]) == (2, "9.9", {"threads": [1, 2]})


RECORDS = {
    "": "is not the record of a run",
    "[]": "is not the record of a run",
    "a: [": "cannot be read as YAML",
    "format_version: 2\nrounds: 3": "has format_version 2; this fedsim reads 1",
    "rounds: 3": "has format_version None",
    "format_version: 1\nrounds: 3": "model",
    "\x00": "cannot be read as YAML",
    "format_version: 1\nseed: 2020-01-01": "seed: Value 'date'",
    "format_version: 1\nseed: !!set {a, b}": "set",
    "format_version: 1\nname: ${nope}": "nope",
    "format_version: 1\nname: !!python/name:os.system": "cannot be read as YAML",
    "? [a]\n: 3": "cannot be read as YAML",
}


@pytest.mark.parametrize("text", RECORDS)
def test_records_that_cannot_be_read(tmp_path, capfd, text):
    (tmp_path / "config.yaml").write_text(text)
    assert resume_run(tmp_path) == "refused"
    line = capfd.readouterr().err
    assert line.startswith(f"error: {tmp_path / 'config.yaml'}: ")
    assert RECORDS[text] in line
    assert line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_record_names_only_components(make, capfd):
    start(make(), "run")
    record = Path("run/config.yaml")
    record.write_text(record.read_text().replace("fedsim.models.recurrent.GRU", "subprocess.Popen"))
    assert resume_run(Path("run"), make("rounds=6")) == "refused"
    assert "model._target_=subprocess.Popen: not a part of fedsim" in capfd.readouterr().err


# How a run is doing


def test_the_state_of_a_directory(make, broken_off, capfd):
    experiment = make()
    assert run_state(Path("run"), experiment) == "missing"
    Path("run").mkdir()
    assert run_state(Path("run"), experiment) == "missing"
    Path("run").rmdir()
    directory = broken_off(experiment, "run", 2)
    assert run_state(directory, experiment) == run_state(directory) == "interrupted"
    assert run_state(directory, make("seed=1")) == "other config"
    (directory / "summary.json").unlink()
    assert run_state(directory, experiment) == "interrupted"
    resume_run(directory)
    assert run_state(directory, experiment) == run_state(directory) == "done"
    assert run_state(directory, replace(experiment, checkpoint=Checkpoint(every=3), threads=2)) == "done"
    assert run_state(directory, replace(experiment, rounds=9)) == "interrupted"
    assert run_state(directory, replace(experiment, stop=Stop(patience=1))) == "interrupted"
    explodes = ("model=rnn", "model.nonlinearity=relu", "data.task=regression", "client.optimizer.lr=1e6", "rounds=20")
    assert start(make(*explodes), "exploded") == "diverged"
    assert run_state(Path("exploded")) == "diverged"
    assert resume_run(Path("exploded")) == "diverged"
    Path("csv").mkdir()
    Path("csv/metrics.csv").touch()
    assert run_state(Path("csv")) == "other config"


# Devices


def test_other_devices_in_the_file_are_refused(make, broken_off, capsys):
    Path("devices.csv").write_text(DEVICES)
    experiment = make("system=profiles", "system.path=devices.csv")
    directory = broken_off(experiment, "broken", 2)
    Path("devices.csv").write_text(DEVICES.replace("20", "21"))
    assert resume_run(directory) == "refused"
    assert "do not have the devices with which the run began" in capsys.readouterr().err
    Path("devices.csv").write_text(DEVICES)
    assert resume_run(directory) == "done"


@pytest.mark.parametrize("which", ["hierfavg", "dpsgd"])
def test_other_edges_in_the_file_are_refused(make, broken_off, capsys, which):
    key, column = {"hierfavg": ("assignment", "edge"), "dpsgd": ("graph", "neighbour")}[which]
    pairs = [f"client_{k},client_{(k + 1) % 10}\n" for k in range(10)]  # a ring; or each an edge server of its own
    Path("pairs.csv").write_text("".join((f"client,{column}\n", *pairs)))
    experiment = make(f"schedule={which}", f"schedule.{key}=pairs.csv", "aggregator=mean")
    directory = broken_off(experiment, "broken", 2)
    Path("pairs.csv").write_text("".join((f"client,{column}\n", *pairs[:-1], "client_9,client_1\n")))
    assert resume_run(directory) == "refused"
    assert "edges or neighbours with which the run began" in capsys.readouterr().err
    Path("pairs.csv").write_text("".join((f"client,{column}\n", *pairs)))
    assert resume_run(directory) == "done"


def test_a_fork_may_have_another_graph(make, broken_off):
    """Every client's row goes on, whoever its neighbours are."""
    directory = broken_off(make("schedule=dpsgd", "aggregator=mean"), "broken", 2)
    other = make("schedule=dpsgd", "aggregator=mean", "schedule.graph=complete")
    assert fork_run(directory, other, Path("fork")) == "done"


def test_a_fork_may_have_other_devices_and_its_clock_goes_on(make):
    assert start(make("system=devices"), "run") == "done"
    slower = make("system=devices", "system.gflops=1e-6", "rounds=6")
    assert fork_run(Path("run"), slower, Path("fork")) == "done"
    times = [line.rpartition(",")[2] for line in Path("fork/metrics.csv").read_text().splitlines()]
    assert times[:6] == [line.rpartition(",")[2] for line in Path("run/metrics.csv").read_text().splitlines()]
    assert float(times[6]) - float(times[5]) > float(times[5]) - float(times[4])


PRIVATE = ("aggregator=mean", "privacy=central_dp", "checkpoint.every=1")


def stream_of(directory):
    return yaml.safe_load((Path(directory) / "config.yaml").read_text())["privacy"]["noise_stream"]


def test_forks_have_noise_of_their_own(make):
    """Else the difference of two would be without noise. The same settings from the same round are the same run."""
    pytest.importorskip("dp_accounting")
    start(make(*PRIVATE), "run")
    other, another = (make(*PRIVATE, f"client.batch_size={size}", "rounds=6") for size in (1, 3))
    for directory, experiment, after in (("a", other, 3), ("b", another, 3), ("c", other, 4), ("d", other, 3)):
        assert fork_run(Path("run"), experiment, Path(directory), after_round=after) == "done"
    streams = {name: stream_of(name) for name in ("run", "a", "b", "c", "d")}
    assert streams["run"] == 0 < streams["a"] == streams["d"]
    assert len({*streams.values()}) == 4
    assert Path("a/metrics.csv").read_bytes() == Path("d/metrics.csv").read_bytes()
    of_a = make(*PRIVATE, f"privacy.noise_stream={streams['a']}", "client.batch_size=4", "rounds=6")
    assert fork_run(Path("a"), of_a, Path("of_a"), after_round=5) == "done"
    assert stream_of("of_a") not in streams.values()


def test_a_fork_in_which_nothing_changes_keeps_its_noise(make):
    pytest.importorskip("dp_accounting")
    start(make(*PRIVATE), "run")
    assert fork_run(Path("run"), make(*PRIVATE, "rounds=6"), Path("fork"), after_round=3) == "done"
    assert stream_of("fork") == 0
    assert Path("fork/metrics.csv").read_text().startswith(Path("run/metrics.csv").read_text())


def test_a_fork_may_be_given_its_noise(make):
    pytest.importorskip("dp_accounting")
    start(make(*PRIVATE), "run")
    given = make(*PRIVATE, "privacy.noise_stream=7", "client.batch_size=1", "rounds=6")
    assert fork_run(Path("run"), given, Path("fork")) == "done"
    assert stream_of("fork") == 7


def test_a_fork_is_resumed_with_its_own_noise(make):
    pytest.importorskip("dp_accounting")
    start(make(*PRIVATE), "run")
    for directory, rounds in (("whole", 7), ("part", 5)):
        changed = make(*PRIVATE, "client.batch_size=1", f"rounds={rounds}")
        assert fork_run(Path("run"), changed, Path(directory)) == "done"
    assert (
        resume_run(
            Path("part"), make(*PRIVATE, "client.batch_size=1", "rounds=7", f"privacy.noise_stream={stream_of('part')}")
        )
        == "done"
    )
    assert Path("part/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
