"""What clients keep between rounds, against a dictionary of rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.client_store import ClientStore
from fedsim.parallel.shared_memory import SharedMemory

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


def test_what_is_written_aside_is_read_and_changes_nothing():
    store = ClientStore(3)
    store.write("a", torch.tensor([0, 1]), torch.tensor([[1.0], [2.0]]))
    with store.aside() as written:
        store.write("a", torch.tensor([1, 2]), torch.tensor([[8.0], [9.0]]))
        store.write("b", torch.tensor([0]), torch.tensor([[7.0]]))
        assert store.read("a", torch.arange(3), torch.zeros(3, 1)).tolist() == [[1], [8], [9]]
        assert store.read("b", torch.arange(2), torch.zeros(2, 1)).tolist() == [[7], [0]]
    assert store.read("a", torch.arange(3), torch.zeros(3, 1)).tolist() == [[1], [2], [0]]
    assert store.blocks == ("a",)
    store.take(written.state_dict())
    assert store.read("a", torch.arange(3), torch.zeros(3, 1)).tolist() == [[1], [8], [9]]
    assert store.read("b", torch.arange(2), torch.zeros(2, 1)).tolist() == [[7], [0]]


def sharing(*stores):
    """Stores as of processes of one machine, with rows in common."""
    first = SharedMemory.make()
    for place, store in enumerate(stores):
        store.share((first if place == 0 else SharedMemory.open(first.offer())).room)
    return stores


DIVIDED = st.lists(
    st.tuples(
        st.sampled_from(["a", "b.c"]),
        st.lists(st.tuples(st.integers(0, CLIENTS - 1), st.booleans()), min_size=1, unique_by=lambda pair: pair[0]),
        st.sampled_from(["together", "together", "each"]),
    ),
    max_size=8,
)


@given(rounds=DIVIDED, begun=st.booleans())
def test_stores_that_have_rows_in_common_are_the_same_dictionary(rounds, begun):
    """Of every round, one process sees all before the other has stored anything; what each writes itself is its own."""
    known = {}
    stores = ClientStore(CLIENTS), ClientStore(CLIENTS)
    if begun:
        known["a", 3] = torch.tensor([-3.0, 3.0])
        for store in stores:
            store.write("a", torch.tensor([3]), known["a", 3][None])
    sharing(*stores)
    for number, (block, clients, by) in enumerate(rounds):
        rows = {client: torch.tensor([number, client], dtype=torch.float32) for client, _ in clients}
        before, known = known, known | {(block, client): row for client, row in rows.items()}
        sent = []
        for rank, store in enumerate(stores):
            own = [client for client, second in clients if second == bool(rank) or by == "each"]
            with store.aside() as written:
                if own and by == "together":
                    store.write(block, torch.tensor(own), torch.stack([rows[client] for client in own]))
            sent.append(written.state_dict())
        for store, other in zip(stores, reversed(stores), strict=True):
            if store is stores[0]:
                check(store, before)
                check(other, before)
            if by == "each":
                everyone = torch.tensor([client for client, _ in clients])
                store.write(block, everyone, torch.stack([rows[int(client)] for client in everyone]))
            for one in sent:
                store.take(one)
            check(store, known)
        check(stores[0], known)


def test_rows_in_common_are_held_once():
    one, two = sharing(ClientStore(1_000_000), ClientStore(1_000_000))
    for store in (one, two):
        store.take({"a/clients": torch.tensor([5]), "a/rows": torch.ones(1, 1000)})
    one._rows["a"][0, 7] = 9  # as no process does by itself
    assert two.read("a", torch.tensor([5]), torch.zeros(1, 1000))[0, 7] == 9
    two.write("a", torch.tensor([5]), torch.zeros(1, 1000))
    assert one.read("a", torch.tensor([5]), torch.zeros(1, 1000))[0, 7] == 9
    assert one.state_dict()["a/rows"].shape == (1, 1000)


def test_without_room_each_process_keeps_its_own():
    store = ClientStore(10)
    asked = []
    store.share(lambda shape, dtype: asked.append((shape, dtype)))
    for number in range(3):
        store.take({"a/clients": torch.tensor([number]), "a/rows": torch.full((1, 2), float(number))})
    assert asked == [((10, 2), torch.float32)]
    assert store.read("a", torch.arange(4), torch.zeros(4, 2))[:, 0].tolist() == [0, 1, 2, 0]
