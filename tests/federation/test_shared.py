"""The population that one process lays down is, field by field, what another process of the machine reads."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fedsim.data.csv import Csv
from fedsim.data.dataset import Forecast, Score, Task
from fedsim.data.laid_out import names_of
from fedsim.data.population import Population, Samples
from fedsim.data.words import Words
from fedsim.federation import prepare as preparing
from fedsim.federation import shared
from fedsim.federation.prepare import prepare
from fedsim.federation.shared import Held, publish, receive, share
from fedsim.parallel.processes import ALONE, World
from fedsim.parallel.shared_memory import SharedMemory
from fedsim.partition.natural import Natural
from fedsim.personalization.ifca import IFCA

KEPT_OUT = ("eval.unseen_clients=2", "eval.validation_fraction=0.3", "client.validation_fraction=0.3", "eval.clients=2")


@pytest.fixture
def pair():
    """Two processes of one machine, as each of them sees it."""
    store = torch.distributed.HashStore()
    return [World(rank, 2, rank, 2, store) for rank in range(2)]


def passed_on(pair, held, allowed=()):
    laid = share(held, pair[0])
    publish(pair[0], laid.laid)
    return receive(pair[1], allowed)


def same(one, other):
    """Compare values of any depth, tensors bit by bit; sequences may be of another kind."""
    if isinstance(one, torch.Tensor | np.ndarray):
        one, other = (torch.as_tensor(value) for value in (one, other))
        return (one.dtype, one.shape, one.numpy().tobytes()) == (other.dtype, other.shape, other.numpy().tobytes())
    if isinstance(one, Population | Samples | Forecast):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, Sequence) and not isinstance(one, str):
        return tuple(one) == tuple(other)
    return one == other


@pytest.fixture
def forecast(tmp_path, tiny):
    """Two clients' tables, each scaled by itself and judged by its own naive forecast; windows share their rows."""
    lines = [f"{key},{t},{(t * 7 + len(key)) % 11}" for key in ("a", "bb") for t in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["key,t,y", *lines]) + "\n")
    data = Csv(
        path=str(tmp_path / "t.csv"),
        client_column="key",
        time_column="t",
        target_column="y",
        window=4,
        horizon=2,
        quantiles=[0.1, 0.5, 0.9],
        metrics=["mase"],
        scale="client",
    )
    return replace(tiny(task=Task.REGRESSION), data=data, partition=Natural(), num_clients=None)


def words(experiment):
    return replace(experiment, data=Words(path=experiment.data.path, length=4, clients_by="speaker"))


def half(error):
    return error / 2


@pytest.mark.parametrize(
    "case", ["classes", "groups", "outputs", "text", "words", "forecast", "kept out", "centralised"]
)
def test_what_is_received_is_what_was_laid_down(case, request, tiny, uneven, pair, monkeypatch):
    experiment = {
        "classes": lambda: tiny(),
        "groups": lambda: replace(tiny("data.groups=2"), partition=Natural(), num_clients=None, schedule=IFCA()),
        "outputs": lambda: tiny(task=Task.REGRESSION),
        "text": lambda: tiny(task=Task.SEQUENCE_LABELLING),
        "words": lambda: words(tiny(task=Task.SEQUENCE_LABELLING)),
        "forecast": lambda: request.getfixturevalue("forecast"),
        "kept out": lambda: replace(tiny(*KEPT_OUT), partition=uneven((4, 5, 6, 7, 8))),
        "centralised": lambda: tiny("baseline=centralised"),
    }[case]()
    found = []
    monkeypatch.setattr(preparing, "share", lambda held, here: found.append(held) or held)
    prepare(experiment)
    (held,) = found
    received = passed_on(pair, held)
    assert received.columns == held.columns
    assert same(held.population, received.population)
    assert prepare(experiment, held=received).laid is received.laid


def test_a_score_is_found_by_its_name_where_that_is_allowed(tiny, pair):
    held = of(prepare(tiny(task=Task.REGRESSION)))
    scored = replace(held, population=replace(held.population, score=Score("half", half)))
    assert passed_on(pair, scored, [__name__]).population.score == Score("half", half)
    assert passed_on(pair, scored) is None  # then the process loads the data itself
    unknown = replace(held, population=replace(held.population, score=Score("half", lambda error: error / 2)))
    assert share(unknown, pair[0]) is unknown
    assert passed_on(pair, unknown) is None


def of(simulation):
    return Held(simulation.population, simulation.columns)


def test_one_process_and_the_others_share_nothing(tiny, pair):
    held = of(prepare(tiny()))
    assert share(held, ALONE) is share(held, pair[1]) is held
    assert share(held, World(3, 4, 0, 1, None)) is held  # alone on its machine


def test_where_there_is_no_such_memory_each_process_loads_its_own(tiny, pair, monkeypatch):
    held = of(prepare(tiny()))
    monkeypatch.setattr(shared.SharedMemory, "make", lambda: None)
    assert passed_on(pair, held) is None


def test_the_memory_of_another_machine_is_not_found():
    memory = SharedMemory.make()
    path, name = memory.offer()
    assert SharedMemory.open([path, name]) is not None
    assert SharedMemory.open([path, f"{name}2"]) is None  # another file
    assert SharedMemory.open(["/proc/self/fd/9999", name]) is None


def test_what_a_process_writes_is_its_own():
    memory = SharedMemory.make()
    place = memory.lay(torch.arange(10_000))
    one, other = memory.at(place), memory.at(place)
    one[5000] = -1
    assert (int(one[5000]), int(other[5000])) == (-1, 5000)


def test_tensors_of_every_type_and_shape():
    memory = SharedMemory.make()
    tensors = [
        torch.rand(3, 4, 5),
        torch.rand(2, 3, dtype=torch.float64).T,  # not contiguous
        torch.tensor(7, dtype=torch.int16),
        torch.tensor([True, False]),
        torch.zeros(0, 5),
    ]
    for tensor, place in [(tensor, memory.lay(tensor)) for tensor in tensors]:
        found = memory.at(place)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found, tensor)


def test_what_is_mapped_from_a_file_is_not_copied(tmp_path):
    """Data larger than memory stay in their file; once that is replaced, nobody reads the other one by mistake."""
    np.arange(100_000, dtype=np.int32).tofile(tmp_path / "data")
    mapped = torch.from_numpy(np.memmap(tmp_path / "data", np.int32, "c"))[20_000:]
    memory = SharedMemory.make()
    place = memory.lay(mapped)
    assert place[3] == str(tmp_path / "data")
    assert place[2] == 80_000
    assert torch.equal(memory.at(place), mapped)
    assert memory.lay(torch.ones(3))[2] == 0, "nothing has been laid down before"
    np.arange(100_000, dtype=np.int32).tofile(tmp_path / "other")
    (tmp_path / "other").replace(tmp_path / "data")
    with pytest.raises(OSError, match="replaced"):
        memory.at(place)
    assert memory.lay(mapped)[3:] == []  # it is still there, under no name


@pytest.mark.parametrize("names", [(), ("",), ("anna", "", "böse\n", "\udcff", "z" * 300)])
def test_names(names):
    packed = names_of(names)
    assert tuple(packed) == names
    assert [packed[k] for k in range(len(names))] == [*names]
    if names:
        assert (packed[-1], packed[1:]) == (names[-1], names[1:])
    with pytest.raises(IndexError):
        packed[len(names)]
