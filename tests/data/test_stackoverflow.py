"""StackOverflow in files of each form, written here byte by byte, and files that try to be something else."""

import sqlite3
import struct
import sys
import zlib
from contextlib import suppress

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data import stackoverflow
from fedsim.data.array_files import mapped_arrays
from fedsim.data.binary_messages import BadMessageError, example_bytes, inflate, unpack
from fedsim.data.contents import Bomb
from fedsim.data.dataset import IGNORE, WordTokens
from fedsim.data.population import build_population
from fedsim.data.stackoverflow import StackOverflow
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.partition.natural import Natural

TRAIN = {"0001": [b"a b .", b"a c a .", b"a"], "0003": [b"b <URL>", b" "], "0007": [b"d . . . . ."]}
TEST = {"0001": [b"a b d"], "0002": [b"hello ."], "0003": [b"b a", b"b"]}
FORMS = ["tff_sqlite", "tff_hdf5", "fedjax"]


# ---------------------------------------------------------------------------------------------------------------------
# writers


def field(number, content):
    """A field of a protocol buffer: its number and kind 2, the length (here below 128 or in two bytes), the content."""
    size = len(content)
    return bytes([8 * number + 2]) + (bytes([size]) if size < 128 else bytes([size % 128 + 128, size // 128])) + content


def example(tokens):
    """A ``tf.train.Example`` with the features of StackOverflow that come before and behind ``tokens``."""

    def entry(name, feature):
        return field(1, field(1, name) + field(2, feature))

    score = field(3, field(1, b"\x05"))  # an int64 list, packed
    features = entry(b"score", score) + entry(b"tokens", field(1, field(1, tokens)))
    return field(1, features + entry(b"type", field(1, field(1, b"answer"))))


def packed(value):
    """MessagePack of bytes, lists and mappings of at most 15 entries."""
    if isinstance(value, bytes):
        return b"\xc5" + struct.pack(">H", len(value)) + value
    if isinstance(value, list):
        return bytes([0x90 + len(value)]) + b"".join(map(packed, value))
    if isinstance(value, int):
        return bytes([value])
    if isinstance(value, tuple):  # an extension: its type and content
        return b"\xc8" + struct.pack(">HB", len(value[1]), value[0]) + value[1]
    return bytes([0x80 + len(value)]) + b"".join(text(key) + packed(one) for key, one in value.items())


def text(key):
    return bytes([0xA0 + len(key)]) + key.encode()


def fedjax_data(tokens):
    array = (4, packed([[len(tokens)], tokens]))
    scores = (1, packed([[len(tokens)], b"int64", bytes(8 * len(tokens))]))
    return zlib.compress(packed({"score": scores, "tokens": array}))


def tff_sqlite(folder, train, test):
    with sqlite3.connect(folder / "stackoverflow.sqlite") as db:
        db.execute("CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)")
        db.execute("CREATE INDEX idx_examples_client_id_split ON examples (split_name, client_id)")
        db.execute("CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)")
        parts = {"train": train, "test": test, "heldout": {"0010": [b"x"]}}
        rows = [(part, user, example(one)) for part in parts for user, own in parts[part].items() for one in own]
        rows = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]  # anywhere, but in their order
        order = {(part, user): iter(own) for part, users in parts.items() for user, own in users.items()}
        db.executemany(
            "INSERT INTO examples VALUES (?, ?, ?)", [(p, user, example(next(order[p, user]))) for p, user, _ in rows]
        )
        counts = [(user, part, len(own)) for part, users in parts.items() for user, own in users.items()]
        db.executemany("INSERT INTO client_metadata VALUES (?, ?, ?)", counts)
    db.close()


def tff_hdf5(folder, train, test):
    strings = h5py.string_dtype("ascii")
    for part, users in (("train", train), ("test", test)):
        with h5py.File(folder / f"stackoverflow_{part}.h5", "w") as file:
            for user, own in users.items():
                file.create_dataset(f"examples/{user}/tokens", data=np.array(own, strings), dtype=strings)
                file.create_dataset(f"examples/{user}/score", data=[1] * len(own))


def fedjax(folder, train, test):
    for part, users in (("train", train), ("test", test)):
        with sqlite3.connect(folder / f"stackoverflow_{part}.sqlite") as db:
            db.execute("CREATE TABLE federated_data (client_id BLOB PRIMARY KEY, data BLOB, num_examples INTEGER)")
            rows = [(user.encode(), fedjax_data(own), len(own)) for user, own in users.items()]
            db.executemany("INSERT INTO federated_data VALUES (?, ?, ?)", rows)
        db.close()


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))

    def write(form, train=TRAIN, test=TEST):
        folder = tmp_path / form
        folder.mkdir(exist_ok=True)
        {"tff_sqlite": tff_sqlite, "tff_hdf5": tff_hdf5, "fedjax": fedjax}[form](folder, train, test)
        return str(folder)

    return write


# ---------------------------------------------------------------------------------------------------------------------
# what is read


@pytest.mark.parametrize("form", FORMS)
def test_by_hand(write, form):
    """Words of training: . 7, a 4, b 2, <URL> 1, c 1, d 1. With four words 5 is unknown, 6 the beginning, 7 the end.

    User 0001 has a b . | a c a . (cut off after 3) | a; 0003 has b <URL>, and a sentence without a word; 0007 has
    d . . of six tokens. 0002 does not train; of the test words only d is unknown.
    """
    data = StackOverflow(path=write(form), length=3, vocabulary_size=4).load(0)
    assert data.client_names == ("0001", "0003", "0007")
    assert data.fitted.vocabulary == ("<padding>", ".", "a", "b", "<URL>", "<unknown>", "<begin>", "<end>")
    assert (data.num_outputs, data.vocabulary_size, data.words) == (8, 8, WordTokens((5, 6), 7))
    assert data.train.inputs.tolist() == [[6, 2, 3], [6, 2, 5], [6, 2, 0], [6, 3, 4], [6, 5, 1]]
    assert data.train.targets.tolist() == [[2, 3, 1], [2, 5, 2], [2, 7, IGNORE], [3, 4, 7], [5, 1, 1]]
    assert data.train.lengths.tolist() == [3, 3, 2, 3, 3]
    assert data.train.clients.tolist() == [0, 0, 0, 1, 2]
    assert data.test.targets.tolist() == [[2, 3, 5], [3, 2, 7], [3, 7, IGNORE]]
    assert data.test.clients.tolist() == [0, 1, 1]
    assert data.notes == (
        "2 of 5 training sentences have more than 3 tokens, of which the first are kept (data.length)",
        "16.7% of the training words are not among the 4 words of the vocabulary (data.vocabulary_size, "
        "data.oov_buckets)",  # c and d of 12
        "left out 1 test sentences of 1 users who have no training sentences",
        "16.7% of the test words are not among the 4 words of the vocabulary (data.vocabulary_size, data.oov_buckets)",
    )


def test_a_file_of_tff_can_be_named_itself(write):
    folder = write("tff_sqlite")
    data = StackOverflow(path=f"{folder}/stackoverflow.sqlite").load(0)
    assert data.client_names == ("0001", "0003", "0007")
    assert data.fitted.vocabulary[1:-3] == (".", "a", "b", "<URL>", "c", "d")


@pytest.mark.parametrize("form", FORMS)
def test_the_first_samples(write, form):
    """The vocabulary is of the sentences that are used: neither c nor the second sentence of 0001 are."""
    data = StackOverflow(path=write(form), max_samples=1, max_test_samples=1).load(0)
    assert data.train.clients.tolist() == [0, 1, 2]
    assert data.test.clients.tolist() == [0, 1]
    assert data.fitted.vocabulary[1:-3] == (".", "b", "<URL>", "a", "d")
    assert "of 1 users only the first 1 training sentences are used (data.max_samples)" in data.notes
    assert "of 1 users only the first 1 test sentences are used (data.max_test_samples)" in data.notes


def test_a_word_count_file(write, tmp_path):
    (tmp_path / "counts").write_text("a\t9\nz\t8\nb\t7\n")
    path = write("fedjax")
    data = StackOverflow(path=path, vocabulary_file=str(tmp_path / "counts"), vocabulary_size=2).load(0)
    assert data.fitted.vocabulary[1:-3] == ("a", "z")
    other = StackOverflow(path=path).load_as(0, data.fitted)
    assert other.fitted == data.fitted


@pytest.mark.parametrize("form", FORMS)
def test_a_second_start_reads_the_cache_alone(write, form, monkeypatch, tmp_path):
    source = StackOverflow(path=write(form), length=3, vocabulary_size=4)
    first = source.load(0)
    monkeypatch.setattr(stackoverflow, "sentence_rows", None)
    again = source.load(0)
    assert isinstance(again.train.inputs, np.memmap)
    for part in ("train", "test"):
        for name in ("inputs", "targets", "lengths", "clients"):
            assert np.array_equal(getattr(getattr(again, part), name), getattr(getattr(first, part), name))
    assert (again.notes, again.fitted, again.client_names) == (first.notes, first.fitted, first.client_names)
    (folder,) = (tmp_path / "cache").iterdir()  # and nothing temporary
    (folder / "train_inputs.bin").write_bytes(b"")
    with pytest.raises(TypeError):  # it would be converted again
        source.load(0)


def test_arrays_stay_on_the_disk(write):
    """All users, in their order: the tensors are the mapped files; some of them: a copy of theirs."""
    data = StackOverflow(path=write("fedjax")).load(0)
    assignment = Natural().assign(data, None, 0)
    whole = build_population(data, assignment, validation_fraction=0, seed=0, dtype=torch.float32)
    assert whole.train.inputs.data_ptr() == data.train.inputs.ctypes.data
    assert whole.train.targets.dtype == torch.int16
    some = build_population(data, Natural().assign(data, 1, 0), validation_fraction=0, seed=0, dtype=torch.float32)
    assert some.client_names[0] in TRAIN
    assert len(some.train) < len(whole.train)


def test_an_interrupted_conversion_leaves_nothing(write, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    source = StackOverflow(path=write("fedjax"))
    with monkeypatch.context() as patch:
        patch.setattr(stackoverflow, "sentence_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            source.load(0)
    assert not [*(tmp_path / "cache").iterdir()]
    assert len(source.load(0).train) == 5


def test_other_settings_and_other_files_are_converted_anew(write):
    folder = write("tff_hdf5")
    assert len(StackOverflow(path=folder).load(0).train) == 5
    assert StackOverflow(path=folder, length=2).load(0).train.steps == 2
    write("tff_hdf5", {**TRAIN, "0009": [b"x y"] * 9})
    assert len(StackOverflow(path=folder).load(0).train) == 14


def test_it_trains(write, compose):
    settings = ("partition=natural", "model=lstm", "model.hidden_size=3", "rounds=1", "engine.kernels=torch")
    path = write("tff_sqlite")
    simulation = prepare(compose("data=stackoverflow", f"data.path={path}", *settings, "device=cpu", "threads=1"))
    results = [result.metrics for result in simulate(simulation, initial_state(simulation))]
    assert results[1]["train_loss"] > 0
    assert {"test_perplexity", "test_accuracy_no_oov_no_eos"} <= {*results[1]}


# ---------------------------------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "path=null: name stackoverflow"),
        ({"path": "a", "length": 0}, "length=0"),
        ({"path": "a", "length": 10**9}, "length=1000000000"),
        ({"path": "a", "vocabulary_file": ""}, "vocabulary_file="),
        ({"path": "a", "max_samples": 0}, "max_samples=0"),
        ({"path": "a", "max_test_samples": 0}, "max_test_samples=0"),
        ({"path": "a", "oov_buckets": 0}, "oov_buckets=0"),
    ],
)
def test_fields_out_of_range(settings, message):
    with pytest.raises(FieldError, match=message):
        StackOverflow(**settings)


def refusal(path, **settings):
    with pytest.raises(UserError) as error:
        StackOverflow(path=str(path), **settings).load(0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_places_that_are_none(write, tmp_path):
    assert "there is no file or folder of this name" in refusal(tmp_path / "nowhere")
    assert "there is no file or folder of this name" in refusal(tmp_path)
    folder = write("fedjax")
    assert "name the folder" in refusal(f"{folder}/stackoverflow_train.sqlite")
    (tmp_path / "stackoverflow.sqlite.lzma").write_bytes(b"")
    assert "xz --decompress" in refusal(tmp_path / "stackoverflow.sqlite.lzma")
    tff_hdf5(tmp_path / "fedjax", TRAIN, TEST)
    assert "has .h5 files and FedJAX' files; move" in refusal(folder)


def test_files_that_are_none(write, tmp_path):
    file = tmp_path / "stackoverflow.sqlite"
    file.write_bytes(b"SQLite format 3\0 but no more than this")
    assert "is no SQLite file of this kind, or is damaged" in refusal(file)
    file.unlink()
    with sqlite3.connect(file) as db:
        db.execute("CREATE VIEW examples AS SELECT 'train' AS split_name, '1' AS client_id, x'00' AS z")
        db.execute("CREATE TABLE client_metadata (a)")
    db.close()
    assert "is no SQLite file of this kind" in refusal(file)  # client_metadata has no split_name
    file.unlink()
    with sqlite3.connect(file) as db:
        db.execute("CREATE VIEW examples AS SELECT 'train' AS split_name, '1' AS client_id, x'00' AS z")
        db.execute("CREATE TABLE client_metadata (client_id, split_name, num_examples)")
    db.close()
    assert "has no table 'examples'" in refusal(file)
    folder = write("tff_hdf5")
    with h5py.File(f"{folder}/stackoverflow_train.h5", "a") as opened:
        del opened["examples/0003/tokens"]
        opened["examples/0003/tokens"] = h5py.SoftLink("/examples/0001/tokens")
    assert "tokens in /examples/0003 is a link to elsewhere" in refusal(folder)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE examples SET serialized_example_proto = x'0a'", "a record of the client '0001' has a number without"),
        ("UPDATE examples SET serialized_example_proto = 'text'", "a record of the client '0001' "),
        ("UPDATE examples SET serialized_example_proto = 5", "a record of the client '0001' is not bytes"),
        ("UPDATE examples SET client_id = NULL", "the client None is not a text"),
        ("UPDATE examples SET client_id = x'ff'", "is not a text"),
        ("DELETE FROM examples WHERE split_name = 'train'", "there is no training sentence|no user has a training"),
        ("DELETE FROM examples WHERE split_name = 'test'", "there is no test sentence of a user who trains"),
    ],
)
def test_damaged_rows_of_tff(write, sql, message):
    folder = write("tff_sqlite")
    with sqlite3.connect(f"{folder}/stackoverflow.sqlite") as db:
        db.execute(sql)
    db.close()
    assert any(part in refusal(folder) for part in message.split("|"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is packed by zlib, but ends too soon"),
        (b"no", "is not packed by zlib"),
        (zlib.compress(b"\x81"), "ends too soon"),
        (zlib.compress(packed({"x": b""})), "has no array of bytes called 'tokens'"),
        (zlib.compress(packed({"tokens": b"a"})), "has no array of bytes called 'tokens'"),
        (zlib.compress(packed({"tokens": (1, packed([[1], [b"a"]]))})), "has no array of bytes called 'tokens'"),
        (zlib.compress(packed({"tokens": (4, packed([b"a"]))})), "has 'tokens' that are no array"),
        (zlib.compress(packed({"tokens": (4, packed([[2], [b"a"]]))})), "are not one dimension of bytes"),
        (zlib.compress(packed({"tokens": (4, packed([[1], [5]]))})), "are not one dimension of bytes"),
        (fedjax_data([b"\xff"]), "a sentence of the client '0001' is not UTF-8"),
    ],
)
def test_damaged_rows_of_fedjax(write, data, message):
    folder = write("fedjax")
    with sqlite3.connect(f"{folder}/stackoverflow_train.sqlite") as db:
        db.execute("UPDATE federated_data SET data = ?", (data,))
    db.close()
    assert message in refusal(folder)


def test_hdf5_without_h5py(write, monkeypatch):
    folder = write("tff_hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "needs h5py" in refusal(folder)


def test_a_cache_that_cannot_be_written(write, monkeypatch, tmp_path):
    path = write("fedjax")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "file"))
    assert "the converted data cannot be written (File exists); set FEDSIM_CACHE_DIR" in refusal(path)


# ---------------------------------------------------------------------------------------------------------------------
# the two formats


def test_an_example_against_the_protobuf_library():
    """The message as `tensorflow/core/example` declares it, built from descriptors."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name, *fields):
        declared = file.message_type.add(name=name)
        for number, (field_name, kind, type_name, repeated) in enumerate(fields, 1):
            label = declared.DESCRIPTOR and (3 if repeated else 1)
            declared.field.add(name=field_name, number=number, type=kind, type_name=type_name, label=label)
        return declared

    message("BytesList", ("value", 12, None, True))
    message("FloatList", ("value", 2, None, True))
    message("Int64List", ("value", 3, None, True))
    names = ("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")
    message("Feature", *((name, 11, f".t.{kind}", False) for name, kind in names))
    features = message("Features", ("feature", 11, ".t.Features.FeatureEntry", True))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, type_name=".t.Feature", label=1)
    entry.options.map_entry = True
    message("Example", ("features", 11, ".t.Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    built = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))()
    sentence = b"some words . " * 30
    built.features.feature["tokens"].bytes_list.value.append(sentence)
    built.features.feature["score"].int64_list.value.append(-3)
    built.features.feature["x"].float_list.value.extend([0.5, 2.0])
    built.features.feature["tags"].bytes_list.value.extend([b"a", b"b"])
    data = built.SerializeToString()
    assert example_bytes(data, "tokens") == sentence
    assert built.FromString(example(b"some words")).features.feature["tokens"].bytes_list.value == [b"some words"]
    with pytest.raises(BadMessageError, match="has 2 values of 'tags', instead of one"):
        example_bytes(data, "tags")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 values"),
        (b"\xff" * 20, "has a number without an end"),
        (b"\x0a\x05ab", "longer than the message"),
        (b"\x0a" + b"\xff" * 8 + b"\x7f", "longer than the message"),
        (b"\x0b", "unknown kind 3"),
        (b"\x09abc", "longer than the message"),
    ],
)
def test_examples_that_are_none(data, message):
    with pytest.raises(BadMessageError, match=message):
        example_bytes(data, "tokens")


@given(st.binary(max_size=60), st.integers(0, 80))
def test_any_bytes_give_a_value_or_one_error(data, at):
    whole = example(b"a b c")
    for attempt in (data, whole[:at] + data + whole[at:]):
        with suppress(BadMessageError):
            assert isinstance(example_bytes(attempt, "tokens"), bytes)
    for attempt in (data, packed({"tokens": [b"a", b"b"]})[:at] + data):
        with suppress(BadMessageError):
            unpack(attempt)


def test_every_kind_of_messagepack():
    """Bytes by the specification's table of codes."""
    values = {
        b"\x05": 5,
        b"\xff": -1,
        b"\xe0": -32,
        b"\xc0": None,
        b"\xc2": False,
        b"\xc3": True,
        b"\xcc\xff": 255,
        b"\xcd\x01\x00": 256,
        b"\xce\x00\x01\x00\x00": 65536,
        b"\xcf" + bytes(7) + b"\x01": 1,
        b"\xd0\x80": -128,
        b"\xd1\xff\x00": -256,
        b"\xd2\xff\xff\xff\x00": -256,
        b"\xd3" + b"\xff" * 8: -1,
        b"\xca\x3f\x00\x00\x00": 0.5,
        b"\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00": 0.5,
        b"\xa2ab": b"ab",
        b"\xd9\x02ab": b"ab",
        b"\xda\x00\x02ab": b"ab",
        b"\xdb\x00\x00\x00\x02ab": b"ab",
        b"\xc4\x02ab": b"ab",
        b"\xc5\x00\x02ab": b"ab",
        b"\xc6\x00\x00\x00\x02ab": b"ab",
        b"\x92\x01\x02": [1, 2],
        b"\xdc\x00\x01\x01": [1],
        b"\xdd\x00\x00\x00\x01\x01": [1],
        b"\x81\xa1a\x01": {b"a": 1},
        b"\xde\x00\x01\xa1a\x01": {b"a": 1},
        b"\xdf\x00\x00\x00\x01\xa1a\x01": {b"a": 1},
    }
    for data, value in values.items():
        assert unpack(data) == value
    for data, kind in {
        b"\xd4\x04a": 4,
        b"\xd5\x01ab": 1,
        b"\xc7\x03\x04abc": 4,
        b"\xc9\x00\x00\x00\x01\x02a": 2,
    }.items():
        found = unpack(data)
        assert (found.kind, found) == (kind, data[-len(found) :])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends too soon"),
        (b"\xdd\xff\xff\xff\xff", "ends too soon"),
        (b"\xc6\xff\xff\xff\xffab", "ends too soon"),
        (b"\xc1", "unknown code 193"),
        (b"\x91" * 20 + b"\x01", "more than 8 lists"),
        (b"\x01\x01", "goes on behind its end"),
        (b"\x81\x90\x01", "a mapping of lists"),
        (b"\xd4", "ends too soon"),
    ],
)
def test_messagepack_that_is_none(data, message):
    with pytest.raises(BadMessageError, match=message):
        unpack(data)


def test_a_bomb():
    with pytest.raises(Bomb, match="more than 200 times its size"):
        inflate(zlib.compress(bytes(80 * 2**20)))


def test_arrays_without_rows(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path))
    arrays, about = mapped_arrays("none", "", {"a": ("int16", 3), "b": ("int32", 1)}, lambda writer: None)
    assert (arrays["a"].shape, arrays["b"].shape, about) == ((0, 3), (0,), {})
