"""What clients keep between rounds, against a dictionary of rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.client_store import ClientStore

CLIENTS = 12
WRITES = st.lists(
    st.tuples(st.sampled_from(["a", "b.c"]), st.lists(st.integers(0, CLIENTS - 1), min_size=1, unique=True)), max_size=8
)


def check(store, known):
    """Every client of every block has its row, or the default."""
    everyone = torch.arange(CLIENTS)
    default = -torch.ones(CLIENTS, 2) * everyone[:, None]
    for block in ("a", "b.c"):
        expected = torch.stack([known.get((block, k), default[k]) for k in range(CLIENTS)])
        assert torch.equal(store.read(block, everyone, default), expected)


@given(writes=WRITES)
def test_a_store_is_a_dictionary_of_rows(writes):
    store, known = ClientStore(CLIENTS), {}
    for number, (block, clients) in enumerate(writes):
        rows = torch.tensor([[number, client] for client in clients], dtype=torch.float32)
        store.write(block, torch.tensor(clients), rows)
        known |= {(block, client): row for client, row in zip(clients, rows, strict=True)}
    check(store, known)
    again = ClientStore(CLIENTS)
    again.load_state_dict(store.state_dict())
    check(again, known)


def test_what_is_read_and_written_is_a_copy():
    store = ClientStore(3)
    rows = torch.ones(1, 2)
    store.write("a", torch.tensor([1]), rows)
    rows += 1
    store.read("a", torch.tensor([1]), torch.zeros(1, 2)).mul_(9)
    store.state_dict()["a/rows"].mul_(9)
    assert store.read("a", torch.tensor([1]), torch.zeros(1, 2)).tolist() == [[1, 1]]


def test_memory_follows_the_clients_seen():
    store = ClientStore(1_000_000)
    for client in range(5):
        store.write("a", torch.tensor([client * 1000]), torch.ones(1, 2))
    assert store.state_dict()["a/rows"].shape == (5, 2)
    assert store.state_dict()["a/clients"].tolist() == [0, 1000, 2000, 3000, 4000]
    assert len(store._rows["a"]) <= 8  # doubling: 1, 2, 4, 8


def test_an_order_of_reading_that_differs_from_that_of_writing():
    store = ClientStore(5)
    store.write("a", torch.tensor([4, 0, 2]), torch.tensor([[4.0], [0.0], [2.0]]))
    assert store.read("a", torch.tensor([2, 3, 4]), torch.full((3, 1), 9.0)).tolist() == [[2], [9], [4]]
