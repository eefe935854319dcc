"""Forks that are killed, records that do not hold what was written, files that somebody else changes."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fedsim.config import compose as config
from fedsim.errors import RecordingFailed, UserError
from fedsim.recording import run_directory
from fedsim.recording.lock import locked
from fedsim.recording.run_directory import CsvWriter
from fedsim.runs import resume
from fedsim.runs import run as runner
from fedsim.runs.checkpoints import load_checkpoint
from fedsim.runs.fit import check_record
from fedsim.runs.record import half_of
from fedsim.runs.resume import fork_run, free_directory, read_experiment, resume_run

SMALL = (
    *("data=synthetic", "data.clients=6", "data.samples_per_client=4", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=natural", "model.hidden_size=2", "client.epochs=1", "rounds=4"),
    *("client.batch_size=2", "engine.kernels=torch", "device=cpu", "threads=1", "console=none", "checkpoint.every=1"),
)


@pytest.fixture(autouse=True)
def _quick(one_thread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(compose):
    """Return ``make(*overrides)``: a small experiment."""
    return lambda *overrides: compose(*SMALL, *overrides)


def start(experiment, directory):
    Path(directory).mkdir()
    return runner.run_experiment(experiment, config.to_yaml(config.record_of(experiment)), Path(directory))


def read(directory, name="metrics.csv"):
    return (Path(directory) / name).read_bytes()


def summary(directory):
    return json.loads(read(directory, "summary.json"))


# Forks


def killed_at(step, work):
    """Do `work` in a child that kills itself at its `step`-th sync, rename or deletion; whether it got that far."""
    child = os.fork()
    if child == 0:
        left = [step]

        def dying(original):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return call

        os.fsync, Path.replace, Path.unlink = dying(os.fsync), dying(Path.replace), dying(Path.unlink)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_fork_killed_anywhere_is_resumed_or_made_again(make, capfd):
    run = make("aggregator=scaffold", "eval.every=3")  # the fork writes the last row anew, as it is not the last now
    assert start(run, "run") == "done"
    forked = replace(run, rounds=5, client=replace(run.client, batch_size=1))
    assert fork_run(Path("run"), forked, Path("whole")) == "done"
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    ways = []
    for step in (*range(1, 17), 19, 22):
        target = Path(f"fork{step}")
        assert killed_at(step, lambda target=target: fork_run(Path("run"), forked, target))
        capfd.readouterr()
        if half_of(target) is not None or not target.exists() or not (target / "config.yaml").exists():
            ways.append("again")
            if half_of(target):
                assert resume_run(target) == "refused"
                line = capfd.readouterr().err
                assert line.startswith(f"error: {target}: holds half a fork of {Path('run').resolve()}, ")
                assert line.endswith(
                    f"make it again: fedsim resume {Path('run').resolve()} ... hydra.run.dir={target}\n"
                )
            assert fork_run(Path("run"), forked, target) == "done"
        else:
            ways.append("resumed")
            assert resume_run(target) == "done"
        assert read(target) == read("whole"), step
        assert half_of(target) is None
        assert not [*target.rglob("*.partial"), *target.rglob("*.unusable"), *target.glob(".fork.json")]
    assert ways == sorted(ways)  # from one step on it is whole
    assert {*ways} == {"again", "resumed"}
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_half_a_fork_gives_its_name_to_the_next(make, tmp_path):
    assert start(make(), "run") == "done"
    half = tmp_path / "run-fork-1"
    half.mkdir()
    (half / ".fork.json").write_text('{"fork_of": "/somewhere/run"}')
    assert free_directory(tmp_path / "run") == half
    (half / "config.yaml").touch()  # whole, and killed before the mark was removed
    assert free_directory(tmp_path / "run") == tmp_path / "run-fork-2"


def test_another_system_in_a_fork_that_is_killed(make, monkeypatch):
    """The checkpoint that a fork begins with has the fork's devices and record, not those of its source."""
    run = make("system=devices")
    assert start(run, "run") == "done"
    other = replace(run, rounds=6, system=replace(run.system, gflops_spread=4.0))
    assert fork_run(Path("run"), other, Path("whole")) == "done"

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resume, "record_run", killed)
        with pytest.raises(KeyboardInterrupt):
            fork_run(Path("run"), other, Path("fork"))
    assert resume_run(Path("fork")) == "done"
    assert read("fork") == read("whole")


def test_the_source_of_a_fork_may_be_running_and_is_not_written_to(make, monkeypatch):
    run = make("rounds=3")
    assert start(run, "run") == "done"
    opened = []

    def noting(path, flags, mode=0o777, **more):
        opened.append((str(path), flags))
        return original(path, flags, mode, **more)

    original = os.open
    monkeypatch.setattr(os, "open", noting)
    with locked(Path("run")):
        (Path("run") / ".lock").chmod(0o400)
        assert fork_run(Path("run"), replace(run, rounds=4, name="x"), Path("fork")) == "done"
    writing = [path for path, flags in opened if flags & (os.O_WRONLY | os.O_RDWR)]
    assert not [path for path in writing if path.startswith("run/") and path != "run/.lock"]
    assert writing.count("run/.lock") == 1  # of this test


# Records are bound to their content


@pytest.fixture(scope="module")
def six(compose, tmp_path_factory):
    """A run of 6 rounds as SIGKILL leaves it after 4, and the whole one, with rows kept per client."""
    folder = tmp_path_factory.mktemp("six")
    experiment = compose(*SMALL, "rounds=6", "aggregator=scaffold", "link/up=topk")
    assert start(experiment, folder / "whole") == "done"
    assert start(replace(experiment, rounds=4), folder / "run") == "done"
    (folder / "run" / "config.yaml").write_text(config.to_yaml(config.record_of(experiment)))
    for name in ("summary.json", "clients.csv"):
        (folder / "run" / name).unlink()
    return folder


def test_no_flipped_bit_is_used(six, tmp_path, capfd):
    """In every seventh byte; the run falls back to the checkpoint before, and says why in one line."""
    name = "checkpoints/round_000004.safetensors"
    good = read(six / "run", name)
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        Path("x").write_bytes(bad)
        with pytest.raises(UserError, match=r"^x: "):
            load_checkpoint(Path("x"), torch.device("cpu"))
    for number, place in enumerate((good.index(b"data_hash") + 20, len(good) - 5, len(good) - 300)):
        directory = Path(shutil.copytree(six / "run", tmp_path / f"run{number}"))
        bad = bytearray(good)
        bad[place] ^= 1
        (directory / name).write_bytes(bad)
        assert resume_run(directory) == "done"
        assert read(directory) == read(six / "whole")
        err = capfd.readouterr().err
        assert err.count("\n") == 1
        assert f"{name}: has changed since it was written (its digest is another); it is not used" in err


EDITS = {
    "lr: 0.3": ("lr: 0.5", "client.optimizer.lr is 0.5, and was 0.3"),
    "batch_size: 2": ("batch_size: 3", "client.batch_size is 3, and was 2"),
    "fraction: 1.0": ("fraction: 0.5", "sampler.fraction is 0.5, and was 1.0"),
    "fedsim.links.topk.TopK": ("fedsim.links.sign.Sign", "link.up is Sign, and was TopK"),
}


@pytest.mark.parametrize("old", EDITS)
def test_an_edited_record_is_named(six, tmp_path, capfd, old):
    new, words = EDITS[old]
    directory = Path(shutil.copytree(six / "run", tmp_path / "run"))
    text = read(directory, "config.yaml").decode()
    assert old in text
    edited = text.replace(old, new)
    if "links" in old:
        edited = edited.replace("    fraction: 0.05\n", "")
    (directory / "config.yaml").write_text(edited)
    before = read(directory)
    assert resume_run(directory) == "refused"
    err = capfd.readouterr().err
    assert err.startswith(f"error: {directory}/config.yaml: has changed since the rounds so far were run: ")
    assert words in err
    assert err.count("\n") == 1
    assert read(directory) == before
    assert fork_run(directory, replace(read_experiment(directory), name="x"), tmp_path / "fork") == "refused"
    assert words in capfd.readouterr().err
    assert not (tmp_path / "fork").exists()
    (directory / "config.yaml").write_text(text)
    assert resume_run(directory) == "done"
    assert read(directory) == read(six / "whole")


def test_what_may_change_within_a_run_may_be_edited(six, tmp_path):
    directory = Path(shutil.copytree(six / "run", tmp_path / "run"))
    text = read(directory, "config.yaml").decode()
    (directory / "config.yaml").write_text(text.replace("rounds: 6", "rounds: 5"))
    assert resume_run(directory) == "done"
    assert read(directory) == b"".join(read(six / "whole").splitlines(keepends=True)[:7])


def test_a_record_without_a_key_of_today(six, tmp_path):
    """One of an earlier version: what came later has its default, which changes nothing."""
    experiment = read_experiment(six / "run")
    record = config.record_of(experiment)
    del record["format_version"], record["client"]["optimizer"]["lr"], record["tags"]
    check_record({"record": record}, experiment, tmp_path)
    check_record({}, experiment, tmp_path)


def tensors_of(path):
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def as_format_2(path, change=lambda tensors: tensors):
    """Write a checkpoint as the version before did, without digests, after a change of its tensors."""
    metadata, tensors = tensors_of(path)
    facts = json.loads(metadata["fedsim"])
    facts["format_version"] = 2
    del facts["tensors"], facts["digest"], facts["run"]["record"]
    save_file(change(tensors), path, metadata={"fedsim": json.dumps(facts)})


def test_checkpoints_of_format_2_are_read(six, tmp_path, capfd):
    directory = Path(shutil.copytree(six / "run", tmp_path / "run"))
    for path in (directory / "checkpoints").iterdir():
        as_format_2(path)
    assert resume_run(directory) == "done"
    assert capfd.readouterr().err == ""
    assert read(directory) == read(six / "whole")


def other(name, change):
    return lambda tensors: tensors | {name: change(tensors[name]).contiguous()}


CHANGES = {
    "a longer row": other("row", lambda x: torch.cat([x, x])),
    "a row of doubles": other("row", lambda x: x.double()),
    "a row of integers": other("row", lambda x: x.long()),
    "a row with NaN": other("row", lambda x: x * float("nan")),
    "a row in two dimensions": other("row", lambda x: x[None]),
    "wide kept rows": other("store/correction.own/rows", lambda x: torch.cat([x, x], 1)),
    "kept doubles": other("store/link.error/rows", lambda x: x.double()),
    "kept NaN": other("store/link.error/rows", lambda x: x * float("nan")),
    "flat kept rows": other("store/link.error/rows", lambda x: x.reshape(-1)),
    "clients as floats": other("store/link.error/clients", lambda x: x.double()),
    "clients twice": other("store/link.error/clients", lambda x: x * 0),
    "clients that there are not": other("store/link.error/clients", lambda x: x + 99),
    "a long drawer": other("drawers/correction/mean", lambda x: torch.cat([x, x])),
    "a drawer with NaN": other("drawers/correction/mean", lambda x: x * float("nan")),
    "no row": lambda tensors: {name: value for name, value in tensors.items() if name != "row"},
    "bytes as floats": other("drawers/traffic/up", lambda x: x.double()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_checkpoints_of_other_shape_or_type(six, tmp_path, capfd, change):
    """Without a digest they cannot be told by it. There is one line and a code, and no traceback."""
    directory = Path(shutil.copytree(six / "run", tmp_path / "run"))
    for path in (directory / "checkpoints").iterdir():
        as_format_2(path, CHANGES[change])
    status = resume_run(directory)
    err = capfd.readouterr().err
    assert "Traceback" not in err, err
    lines = err.splitlines()
    if status == "done":  # none of them could be used, so that the run has begun again
        assert "starting over from round 0" in lines[-1]
        assert read(directory) == read(six / "whole")
    else:
        assert status in ("refused", "diverged"), err
        assert len(lines) == 1, err


# metrics.csv


COLUMNS = ("round", "loss")


def replaced(path):
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


TAMPERING = {
    "replaced": (replaced, "was replaced by another file"),
    "deleted": (lambda path: path.unlink(), "was deleted or moved"),
    "cut": (lambda path: os.truncate(path, 15), "has 15 bytes instead of the 26 that were written"),
    "longer": (lambda path: os.truncate(path, 27), "has 27 bytes instead of the 26"),
    "edited": (lambda path: path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6")), "no longer holds what was"),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_a_writer_notices_what_others_do(tmp_path, how):
    change, words = TAMPERING[how]
    writer = CsvWriter(tmp_path / "metrics.csv", COLUMNS)
    for number in range(3):
        writer.write({"round": number, "loss": 1.5} if number else {"round": 0, "loss": None})
    writer.check(whole=True)
    change(tmp_path / "metrics.csv")
    with pytest.raises(RecordingFailed, match=words):
        writer.check()
    writer.close()


def test_of_a_large_file_only_the_end_reads_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "LARGE", 20)
    path = tmp_path / "metrics.csv"
    writer = CsvWriter(path, COLUMNS)
    for number in range(3):
        writer.write({"round": number, "loss": 1.5})
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6"))
    writer.check()
    with pytest.raises(RecordingFailed):
        writer.check(whole=True)
    writer.close()


@pytest.mark.parametrize("every", [1, 100])  # a checkpoint before the end, or only the end
@pytest.mark.parametrize("how", ["replaced", "deleted", "cut"])
def test_a_run_whose_rows_are_gone_has_failed(make, monkeypatch, capfd, how, every):
    experiment = make(f"checkpoint.every={every}", "rounds=5")
    record = runner.Recorder.record

    def tampering(self, result, state):
        record(self, result, state)
        if state.round == 3:
            TAMPERING[how][0](self.directory / "metrics.csv")

    monkeypatch.setattr(runner.Recorder, "record", tampering)
    assert start(experiment, "run") == "failed"
    err = capfd.readouterr().err
    assert err.startswith("error: run/metrics.csv: ")
    assert err.endswith("by another program during the run, which ends here\n")
    assert err.count("\n") == 1
    assert (summary("run")["status"], summary("run")["rounds"]) == ("failed", 4 if every == 1 else 5)


def test_a_run_that_has_ended_is_not_done_without_its_rows(make, capfd):
    assert start(make(), "run") == "done"
    assert resume_run(Path("run")) == "done"
    good = read("run")
    for change in (good[:-20], good + b"x", good.replace(b"4", b"5"), None):
        if change is None:
            Path("run/metrics.csv").unlink()
        else:
            Path("run/metrics.csv").write_bytes(change)
        assert resume_run(Path("run")) == "refused"
        err = capfd.readouterr().err
        assert err.startswith("error: run/metrics.csv: is no longer what it was when the run ended; ")
        assert err.count("\n") == 1
    Path("run/summary.json").unlink()
    assert resume_run(Path("run")) == "done"
    assert read("run") == good


# Words


@pytest.mark.parametrize("every", [1, 100])
def test_a_directory_that_is_deleted_is_not_called_intact(make, monkeypatch, capfd, every):
    experiment = make(f"checkpoint.every={every}")
    record = runner.Recorder.record

    def deleting(self, result, state):
        record(self, result, state)
        if state.round == 2:
            shutil.rmtree(self.directory)

    monkeypatch.setattr(runner.Recorder, "record", deleting)
    assert start(experiment, "run") == "failed"
    err = capfd.readouterr().err
    assert err == "error: run: was deleted or moved during the run, which ends here\n"
    assert not Path("run").exists()


def test_rows_that_cannot_be_written_are_not_blamed_on_the_console(make, monkeypatch, capfd):
    experiment = make()
    record = runner.Recorder.record

    def onto_a_full_disk(self, result, state):
        if state.round == 2:
            self._metrics._file.close()
            self._metrics._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
        record(self, result, state)

    monkeypatch.setattr(runner.Recorder, "record", onto_a_full_disk)
    assert start(experiment, "run") == "failed"
    err = capfd.readouterr().err
    assert err == "error: No space left on device: run/metrics.csv; what was recorded before is intact\n"
    assert resume_run(Path("run")) == "failed"  # once more, for the patch is still there
    monkeypatch.setattr(runner.Recorder, "record", record)
    assert resume_run(Path("run")) == "done"


def test_a_log_on_a_full_disk_says_nothing(make, capfd):
    """The line that ends the run says it; logging would print a traceback for every line."""
    import logging

    handler = logging.FileHandler("/dev/full")
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        assert start(make(), "run") == "done"
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with pytest.raises(OSError, match="No space left"):
            handler.close()
    assert capfd.readouterr().err == ""
    assert logging.raiseExceptions


def test_a_folder_with_only_hydras_files_holds_no_run(make, capfd):
    Path("run/.hydra").mkdir(parents=True)
    Path("run/.hydra/config.yaml").touch()
    assert resume_run(Path("run")) == "refused"
    assert capfd.readouterr().err == "error: run: holds no run (there is no config.yaml)\n"
