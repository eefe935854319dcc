"""Whatever a file holds, `Csv` gives a valid data set or says in one line what is wrong."""

import contextlib
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.data.csv import Csv
from fedsim.data.dataset import Task
from fedsim.errors import UserError

CELLS = st.sampled_from(
    [
        *("0", "1", "-2.5", "1e30", "1e-30", "1e309", "inf", "-inf", "nan", "NA", "?", "", " ", "007", "1_0", "0x1f"),
        *("99999999999999999999", "1,5", "True", "false", "a", "b", '"', '"q"', '"a,b"', '"1\n2"', "1 2", "é", "\x1f"),
        *("2024-01-01", "2024-01-01T00:00Z", "2024-13-01", "9999-12-31", "0001-01-01", "12:30", "\u2028", "=1+1", "#"),
    ]
)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n", "\n \n"])
TEXT = {"separator": None, "decimal": None, "header": None, "comment": None, "skip_rows": None, "thousands": None}
TEXT |= {"encoding": "utf-8"}
"""Settings that Parquet files do not have."""
rarely = st.integers(0, 9).map(lambda k: k == 0)


@st.composite
def grids(draw):
    """A table with an odd cell, name or row here and there; "t" counts up."""
    names = draw(st.permutations(["x", "y", "who", "t"]))
    if draw(rarely):
        names[draw(st.integers(0, 3))] = draw(st.sampled_from(["x", "", " y", "z"]))
    words = {"who": draw(st.sampled_from(["a", "ab", "abc"])), "y": "01", "x": draw(st.sampled_from(["0123", "5"]))}
    size, shift = draw(st.integers(0, 40)), draw(st.integers(0, 6))
    rows = [
        [
            str(k) if name == "t" else words.get(name, "7")[(k + k // 7 * shift) % len(words.get(name, "7"))]
            for name in names
        ]
        for k in range(size)
    ]
    for _ in range(draw(st.integers(0, 3)) if rows else 0):
        draw(st.sampled_from(rows))[draw(st.integers(0, 3))] = draw(CELLS)
    if rows and draw(rarely):
        rows[draw(st.integers(0, size - 1))] = draw(st.lists(CELLS, max_size=6))
    end, mark = draw(ENDS), ";" if draw(rarely) else ","
    return (end.join(mark.join(row) for row in [names, *rows]) + draw(st.sampled_from(["", end]))).encode()


@st.composite
def damaged(draw):
    """A good table some bytes of which are changed, cut off or packed."""
    good = "t,x,y,who\n" + "".join(f"{k},{k % 3},{k % 2},{'ab'[k % 2]}\n" for k in range(40))
    data = bytearray(good.encode())
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    return gzip.compress(bytes(data)) if draw(st.booleans()) else bytes(data)


ODD = st.one_of(damaged(), st.binary(max_size=60), st.text(max_size=60).map(str.encode))
CONTENTS = st.one_of(grids(), grids(), grids(), ODD)


@st.composite
def sources(draw):
    """Settings that are allowed together."""
    task = draw(st.sampled_from(["forecast", "regression", "classification"]))
    time = draw(st.sampled_from([None, "t"]))
    mark = "semicolon" if draw(rarely) else None
    values = {
        "target_column": draw(st.sampled_from(["y", "x", *([["x", "y"]] if task != "classification" else [])])),
        "client_column": draw(st.sampled_from([None, "who"])),
        "time_column": time,
        "time_format": draw(st.sampled_from(["%Y", "%d/%m %H"])) if time and draw(rarely) else None,
        "feature_columns": draw(st.sampled_from([None, ["x"], ["x", "y"]])),
        "task": task,
        "window": draw(st.integers(1, 3)),
        "stride": draw(st.integers(1, 3)),
        "test_fraction": draw(st.floats(0.1, 0.6)),
        "scale": draw(st.sampled_from(["global", "client", "none"])),
        "missing": draw(st.sampled_from(["error", "drop", "ffill"])),
        "short": draw(st.sampled_from(["error", "drop"])),
        "separator": mark,
        "decimal": "comma" if mark and draw(st.booleans()) else None,
        "na_values": ["7", "?"] if draw(rarely) else None,
        "gaps": draw(st.sampled_from(["split", "error", "ignore"])),
        "sort": time is not None and draw(st.booleans()),
        "header": draw(st.sampled_from([None, None, True])),
        "comment": "#" if draw(rarely) else None,
        "skip_rows": draw(st.sampled_from([1, [2, 3]])) if draw(rarely) else None,
        "encoding": "latin-1" if draw(rarely) else "utf-8",
        "thousands": "apostrophe" if draw(rarely) else None,
    }
    if time is not None:
        values["duplicates"] = draw(
            st.sampled_from(["error", "first", "mean" if task != "classification" else "first"])
        )
    return values


SHAPES = [
    {"series_in": "columns", "target_column": None, "task": "forecast"},
    {"series_in": "columns", "target_column": None, "task": "forecast", "shared_columns": ["x"]},
    {"series_in": "columns", "target_column": None, "task": "forecast", "time_column": "t", "client_column": "who"},
    {"series_in": "rows", "target_column": None, "task": "forecast", "header": True},
    {"series_in": "rows", "target_column": "y", "task": "classification", "client_column": "who"},
    {"series_in": "rows", "target_column": "y", "task": "regression"},
    {"measurement_columns": ["who", "x"], "time_column": "t", "target_column": "a", "task": "forecast"},
    {"measurement_columns": ["x", "y"], "time_column": "t", "client_column": "who", "target_column": "0"},
    {"sequence_column": "who", "target_column": "y", "task": "classification"},
    {"sequence_column": "x", "client_column": "who", "target_column": "y", "task": "regression"},
    {"categories": ["who"], "target_column": "y"},
    {"categories": ["x"], "where": {"who": ["a", "b"]}, "target_column": "y", "task": "classification"},
    {"where": {"x": 0}, "target_column": "y", "client_column": "who", "time_column": "t"},
]


def check(data):
    """That a data set is what `Dataset` promises."""
    for split in (data.train, data.test):
        assert len(split) > 0
        assert split.take().dtype == np.float32
        assert np.isfinite(split.take()).all()
        assert ((split.lengths >= 1) & (split.lengths <= split.steps)).all()
        assert len(split.targets) == len(split.lengths) == len(split.take())
        if data.task is Task.CLASSIFICATION:
            assert ((split.targets >= 0) & (split.targets < data.num_outputs)).all()
            assert data.num_outputs >= 2
        else:
            assert split.targets.shape[1] == data.num_outputs
            assert np.isfinite(split.targets).all()
        assert (split.clients is None) == (data.client_names is None)
        if split.clients is not None:
            assert ((split.clients >= 0) & (split.clients < len(data.client_names))).all()
    if data.client_names is not None:
        assert (np.bincount(data.train.clients, minlength=len(data.client_names)) > 0).all()
        assert len({*data.client_names}) == len(data.client_names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FEDSIM_CACHE_DIR", raising=False)
        patch.setattr("fedsim.data.cache.cache_directories", list)  # nothing comes twice
        yield tmp_path_factory.mktemp("files")


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(
    contents=st.lists(CONTENTS, min_size=1, max_size=2),
    name=st.sampled_from([".csv"] * 18 + [".csv.gz", ".parquet"]),
    values=sources(),
)
def test_a_data_set_or_one_line(folder, contents, name, values):
    for k in range(2):
        file = folder / f"{k}{name}"
        file.unlink(missing_ok=True)
        if k < len(contents):
            file.write_bytes(contents[k])
    load(path=f"{folder}/?{name}", **values)


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(
    contents=st.lists(CONTENTS, min_size=1, max_size=2),
    name=st.sampled_from([".csv"] * 9 + [".tsv", ".jsonl", ".tsf"]),
    shape=st.sampled_from(SHAPES),
    rest=st.fixed_dictionaries(
        {
            "missing": st.sampled_from(["error", "drop", "ffill", "mask", "mask"]),
            "window": st.integers(1, 3),
            "test_fraction": st.floats(0.1, 0.6),
            "scale": st.sampled_from(["global", "client", "none"]),
        }
    ),
)
def test_a_data_set_or_one_line_of_other_shapes(folder, contents, name, shape, rest):
    for file in folder.glob("s*"):
        file.unlink()
    for k, content in enumerate(contents):
        (folder / f"s{k}{name}").write_bytes(content)
    load(path=f"{folder}/s?{name}", **shape, **rest)


OBJECTS = st.lists(
    st.dictionaries(
        st.sampled_from(["x", "y", "who", "t"]), st.recursive(st.none() | st.integers() | st.floats(), st.lists)
    ),
    max_size=20,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(rows=OBJECTS, missing=st.sampled_from(["error", "drop", "mask"]))
def test_a_data_set_or_one_line_of_json(folder, rows, missing):
    good = [{"x": k % 3, "y": k % 2, "who": "ab"[k % 2], "t": k} for k in range(20)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*good[:10], *rows, *good[10:]]))
    load(path=str(folder / "a.jsonl"), target_column="y", client_column="who", window=1, missing=missing)


def load(**values):
    """Check what comes of a source: a data set or one line."""
    data = said = None
    try:
        data = Csv(**values).load(0)
    except UserError as error:
        said = str(error)
    if data is not None:
        check(data)
    else:
        assert said.startswith("data.")
        assert len(said.splitlines()) == 1
    return said


VALUES = st.one_of(
    *(st.integers(0, 3), st.floats(), st.booleans(), st.text(max_size=3), st.binary(max_size=3), st.dates()),
    *(st.datetimes(), st.times(), st.timedeltas(), st.decimals(allow_nan=False, places=2, max_value=99, min_value=0)),
    *(st.lists(st.integers(0, 3), max_size=2), st.fixed_dictionaries({"a": st.integers(0, 3)})),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    example=st.tuples(VALUES, VALUES, VALUES),
    gap=st.integers(-5, 19),
    odd=st.sampled_from(["x", "y", "t"]),
    values=sources(),
)
def test_a_data_set_or_one_line_of_parquet(folder, example, gap, odd, values):
    columns = {"who": ["a", "b"] * 10, "x": [0.5, 1.5, 2.5, 3.5] * 5, "y": [0, 0, 1, 1, 0] * 4, "t": [*range(20)]}
    columns[odd] = [*example] * 6 + [*example][:2]
    if gap >= 0:
        columns[odd][gap] = None
    try:
        table = pa.table(columns)
    except (pa.ArrowException, OverflowError):  # values of several kinds
        return
    pq.write_table(table, folder / "a.parquet")
    load(path=str(folder / "a.parquet"), **values | TEXT)


def test_the_fuzzed_files_are_not_all_refused(folder):
    """That `check` sees something at all."""
    text = "t,x,y,who\n" + "".join(f"{k},{k % 3},{k % 2},{'ab'[k % 2]}\n" for k in range(40))
    (folder / "good.csv").write_text(text)
    for task in ("forecast", "regression", "classification"):
        check(Csv(path=str(folder / "good.csv"), target_column="y", task=task, window=2, client_column="who").load(0))
    given = 0
    for shape in SHAPES:
        with contextlib.suppress(UserError):
            check(Csv(path=str(folder / "good.csv"), window=1, missing="mask", **shape).load(0))
            given += 1
    assert given >= 9
