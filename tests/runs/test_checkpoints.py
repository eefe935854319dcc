"""The whole state in one file and back, bit by bit; files that are no checkpoints; which ones are kept."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from fedsim.client_store import ClientStore
from fedsim.core.state import State
from fedsim.core.stopping import Progress
from fedsim.errors import UserError
from fedsim.runs.checkpoints import checkpoint_path, load_checkpoint, prune_checkpoints, save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def state():
    """A state with everything in it, and numbers that only come back if every bit does."""
    generator = torch.Generator().manual_seed(0)

    def rows(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    store = ClientStore(7)
    store.write("optimizer.momentum", torch.tensor([1, 5]), rows(2, 4))
    store.write("control", torch.tensor([3]), rows(1, 4))
    progress = Progress("test_accuracy", "max", best=0.1 + 0.2, best_round=3, since_best=2, reason="no better")
    drawers = {
        "server": {"mean": rows(4), "square": rows(4, dtype=torch.float64)},
        "traffic": {"down": torch.tensor(10**12), "up": torch.tensor(3)},
        "system": {"virtual_seconds": torch.tensor(0.1 + 0.2, dtype=torch.float64)},
        "mine": {"a.name/with.marks": torch.tensor([[1, -1]], dtype=torch.int8), "none": rows(0, 4)},
    }
    return State(rows(4), store, progress, round=12, drawers=drawers)


def test_everything_comes_back(state, tmp_path):
    path = save_checkpoint(tmp_path, state)
    assert path == tmp_path / "checkpoints" / "round_000012.safetensors"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    found = load_checkpoint(path, CPU)
    assert torch.equal(found.row, state.row)
    assert found.drawers.keys() == state.drawers.keys()
    for group, drawer in state.drawers.items():
        assert found.drawers[group].keys() == drawer.keys()
        for name, value in drawer.items():
            assert found.drawers[group][name].dtype == value.dtype
            assert torch.equal(found.drawers[group][name], value)
    assert found.progress == state.progress
    assert (found.round, int(found.drawers["traffic"]["down"])) == (12, 10**12)
    assert found.store.num_clients == 7
    before, after = state.store.state_dict(), found.store.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_is_written_over_by_the_same_round(state, tmp_path):
    save_checkpoint(tmp_path, state)
    state.row = state.row + 1
    assert torch.equal(load_checkpoint(save_checkpoint(tmp_path, state), CPU).row, state.row)


def test_rows_that_are_views_are_saved(state, tmp_path):
    state.row = torch.arange(8.0)[::2]
    assert load_checkpoint(save_checkpoint(tmp_path, state), CPU).row.tolist() == [0, 2, 4, 6]


def test_files_that_are_no_checkpoints(state, tmp_path):
    good = save_checkpoint(tmp_path, state).read_bytes()

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    contents = {
        "empty": b"",
        "text": b"hello",
        "cut": good[:-1],
        "half": good[: len(good) // 2],
        "pickle": pickle.dumps(Evil()),
        "long header": b"\xff" * 8 + good[8:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: cannot be read as a checkpoint"):
            load_checkpoint(tmp_path / name, CPU)
    with pytest.raises(UserError, match="missing: cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "missing", CPU)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("facts", ["null", "3", "[]", '{"format_version": 4}', "{", None])
def test_other_safetensors(tmp_path, facts):
    save_file({"row": torch.zeros(3)}, tmp_path / "x", metadata=None if facts is None else {"fedsim": facts})
    with pytest.raises(UserError, match="x: "):
        load_checkpoint(tmp_path / "x", CPU)


@pytest.mark.parametrize("version", [1, 2])
def test_facts_that_are_missing(tmp_path, version):
    save_file({"row": torch.zeros(3)}, tmp_path / "x", metadata={"fedsim": json.dumps({"format_version": version})})
    with pytest.raises(UserError, match="x: is not a complete checkpoint"):
        load_checkpoint(tmp_path / "x", CPU)


@pytest.mark.parametrize(
    ("scores", "low", "kept"),
    [
        ({1: 0.9, 2: 0.5, 3: 0.1, 4: 0.2, 5: 0.3}, False, [1, 4, 5]),
        ({1: 0.9, 2: 0.5, 3: 0.1, 4: 0.2, 5: 0.3}, True, [3, 4, 5]),
        ({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5, 5: 0.5}, True, [1, 4, 5]),  # the first of equals
        ({1: 0.1, 5: 0.5}, False, [4, 5]),
        ({}, True, [4, 5]),
        ({0: 9.0, 7: 9.0}, False, [4, 5]),  # rounds without a checkpoint
    ],
)
def test_the_last_two_and_the_best_are_kept(tmp_path, scores, low, kept):
    (tmp_path / "checkpoints").mkdir()
    for number in range(1, 6):
        checkpoint_path(tmp_path, number).touch()
    (tmp_path / "checkpoints" / "round_mine.safetensors").touch()
    prune_checkpoints(tmp_path, scores, low)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"round_mine.safetensors"} | {checkpoint_path(tmp_path, number).name for number in kept}


def test_pruning_by_number_not_by_name(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for number in (999_998, 999_999, 1_000_000):
        checkpoint_path(tmp_path, number).touch()
    prune_checkpoints(tmp_path, {}, True)
    assert not checkpoint_path(tmp_path, 999_998).exists()
    assert checkpoint_path(tmp_path, 1_000_000).exists()
