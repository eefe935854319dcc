"""Files of a run directory and of a sweep that are damaged or made by somebody else; checkpoints have their own tests.

Whatever they hold, each command ends well or is refused in one line with exit code 2, and soon.
"""

import gc
import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save

from fedsim.errors import UserError
from fedsim.json_bounds import parse_json, read_json
from fedsim.machine import refuse_larger
from fedsim.recording.run_directory import digest_of
from fedsim.runs import checkpoints
from fedsim.runs.history import read_rows
from fedsim.yaml_bounds import DEEPEST, read_yaml

OF_A_RUN = (
    *("summary.json", "resumed.json", "tracker.json", "config.yaml", "metrics.csv", "clients.csv", "timing.csv"),
    *(".fork.json", ".lock", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "run.log"),
)
OF_A_SWEEP = (
    *("sweep.yaml", "multirun.yaml", "sweep.csv", ".lock", "0/summary.json", "0/config.yaml", "0/resumed.json"),
    *("0/metrics.csv", "0/.hydra/hydra.yaml", "0/.hydra/overrides.yaml", "0/.fork.json", "0/.lock"),
)
CONTENTS = {
    "empty": b"",
    "nul": b"\0" * 50,
    "not text": b"\xff\xfe\0a",
    "deep list": b"[" * 100_000,
    "deep mapping": b'{"a":' * 90_000,
    "deep for a config": b'{"a":' * 80 + b"1" + b"}" * 80,
    "null": b"null",
    "list": b"[]",
    "number": b"3",
    "text": b'"x"',
    "mapping": b"{}",
    "huge field": b"a" * 300_000,
    "unterminated": b'"' + b"a" * 300_000,
    "header only": b"round\n",
    "other columns": b"round,x\n1,2\n",
    "mapping in a mapping": b"a: b: c",
    "recursive": b"a: &a [*a]",
    "laughs": b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
    "huge number": b"9" * 5000,
    "code": b"!!python/object/apply:os.system ['touch pwned']",
    "no date": b"2001-99-99",
    "sequences": b"- " * 5000,
    "merge": b"<<: 3",
    "version": b"%YAML 9.9\n---\n",
    "list as a key": b"{[a]: b}",
    "sexagesimal": b"1:" * 3000,
}
COMMANDS = {
    "again": ("resume", "run"),
    "resume": ("resume", "run", "rounds=5"),
    "fork": ("resume", "run", "rounds=6", "client.optimizer.lr=0.1", "hydra.run.dir=fork"),
    "export": ("export", "run", "--out", "out"),
    "best": ("evaluate", "run", "--checkpoint", "best"),
}


@pytest.fixture(autouse=True)
def _quick(one_thread):
    yield
    release()


def release():
    """Free what the commands have made and frozen, as processes that are about to end."""
    gc.unfreeze()
    gc.enable()
    gc.collect()


@pytest.fixture
def good(fedsim, tiny):
    """A run that was resumed, and a sweep of two runs."""
    settings = [*tiny, "rounds=3", "checkpoint.every=1"]
    assert fedsim("run", *settings, "hydra.run.dir=good/run").code == 0
    assert fedsim("resume", "good/run", "rounds=4").code == 0
    assert fedsim("run", "-m", *settings, "seed=1,2", "hydra.sweep.dir=good/sweep").code == 0
    return {**COMMANDS, "sweep": ("run", "-m", *settings, "seed=1,2", "--resume", "sweep"), "one": ("resume", "sweep")}


def attack(fedsim, words, files, case):
    """Call a command on copies in which files have other contents; None removes one."""
    for folder in ("run", "sweep", "fork", "out"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree("good", ".", dirs_exist_ok=True)
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    answer = fedsim(*words)
    lines, case = answer.err.splitlines(), (case, words, answer)
    assert "Traceback" not in answer.err, case
    assert answer.code in (0, 2, 4), case
    assert all(len(line) < 2100 for line in lines), case
    if answer.code == 2:
        assert sum(line.startswith("error: ") for line in lines) == 1, case
        assert all(line.split(":")[0] in ("error", "warning", "data") for line in lines), case
    assert not Path("pwned").exists(), case
    return answer


def whole_files(good):
    """Cases in which one file holds something else altogether, or half of what it should."""
    cases = []
    for folder, names, words in (("run", OF_A_RUN, COMMANDS), ("sweep", OF_A_SWEEP, ("sweep", "one"))):
        for name in names:
            path = Path("good") / folder / name
            found = {**CONTENTS, "gone": None}
            if path.exists():
                content = path.read_bytes()
                found |= {"half": content[: len(content) // 2], "latin 1": content + b"\xe9\n"}
                found |= {"nul": content.replace(b"e", b"\0", 1)}
            pending = {"sweep/0/summary.json": None} if folder == "sweep" else {"run/summary.json": None}
            for what, content in found.items():
                for command in words:
                    files = {f"{folder}/{name}": content}
                    cases.append(((name, what), good[command], files))
                    cases.append(((name, what, "pending"), good[command], pending | files))
    return cases


def test_some_files_that_hold_something_else(fedsim, good):
    for case, words, files in whole_files(good)[::53]:
        attack(fedsim, words, files, case)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(8))
def test_every_file_that_holds_something_else(fedsim, good, share):
    for case, words, files in whole_files(good)[share::8]:
        attack(fedsim, words, files, case)


# ---------------------------------------------------------------------------------------------------------------------
# keys of JSON and YAML

HERE = "put the value here"
VALUES = (
    *("null", "true", '"x"', '""', "[]", "{}", "-1", "0", "1.5", "1e308", "1" + "0" * 400, "9" * 5000, "[[1]]"),
    *("[" * 80 + "]" * 80, '{"a": ' * 80 + "1" + "}" * 80, r'"\ud800"', r'"\u0000"', "999999999", '{"_target_": 3}'),
)
OF_JSON = ("NaN", "Infinity", "[" * 900 + "]" * 900)
OF_YAML = (
    *(
        ".nan",
        ".inf",
        "2001-01-01",
        "!!binary aGk=",
        "!!set {a}",
        "!!python/name:os.system x",
        "${seed}",
        "1:30",
        "{1: 2}",
    ),
    *(
        "0x7fffffffffffffffffff",
        "{null: 1}",
        "{_target_: fedsim.data.synthetic.Synthetic}",
        "1e-320",
        "'../x'",
        "&a [*a]",
    ),
)


def places(node, prefix=()):
    """The paths of all keys, and of the first entry of every list."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield (*prefix, key)
            yield from places(child, (*prefix, key))
    elif isinstance(node, list) and node:
        yield (*prefix, 0)
        yield from places(node[0], (*prefix, 0))


def with_value(name, path, value):
    """The content of a JSON or YAML file in which one key has another value, or is missing if that is None."""
    text = (Path("good") / name).read_text()
    content = node = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = HERE
    if name.endswith("json"):
        return json.dumps(content).replace(f'"{HERE}"', value or "").encode()
    return yaml.safe_dump(content, width=10**6).replace(HERE, value or "").encode()


def keys():
    """Every file, key, value and command."""
    files = {
        "run/summary.json": COMMANDS,
        "run/resumed.json": COMMANDS,
        "run/config.yaml": COMMANDS,
        "sweep/0/summary.json": ("sweep",),
        "sweep/0/config.yaml": ("sweep",),
        "sweep/sweep.yaml": ("sweep", "one"),
        "sweep/multirun.yaml": ("one",),
    }
    cases = []
    for name, words in files.items():
        text = (Path("good") / name).read_text()
        content = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
        values = (*VALUES, *(OF_JSON if name.endswith("json") else OF_YAML), None)
        cases += itertools.product([name], places(content), values, words)
    return cases


def test_some_keys_with_other_values(fedsim, good):
    for name, path, value, word in keys()[::401]:
        attack(fedsim, good[word], {name: with_value(name, path, value)}, (name, path, value))


@pytest.mark.slow
@pytest.mark.parametrize("share", range(8))
def test_many_keys_with_other_values(fedsim, good, share):
    for name, path, value, word in keys()[share * 5 :: 41]:
        attack(fedsim, good[word], {name: with_value(name, path, value)}, (name, path, value))


def test_half_a_fork_of_anything(fedsim, good):
    for value in (*VALUES, *OF_JSON):
        mark = f'{{"fork_of": {value}}}'.encode()
        files = {"run/.fork.json": mark, "run/config.yaml": None, "run/summary.json": None}
        assert attack(fedsim, COMMANDS["resume"], files, value).code == 2


def test_points_that_cannot_be_read_are_said_to_be_lost(fedsim, good):
    for content in (b"", b'{"resumed": [3]}', b'{"resumed": ' + b"[" * 50 + b"]" * 50 + b"}"):
        answer = attack(fedsim, COMMANDS["resume"], {"run/resumed.json": content}, content)
        assert answer.code == 0
        assert (
            "run/resumed.json: cannot be read; at which rounds the run was resumed before is no longer known"
            in answer.err
        )


# ---------------------------------------------------------------------------------------------------------------------
# CSV files

CELLS = (
    *("", "x", "nan", "inf", "-inf", "1e400", "9" * 5000, "-", "--1", "1_0", "\u0663", "\u00b2", " 1", "true", "0x10"),
    *("1.5", "-1", '"', "'", "\0", '"a\nb"', "a" * 200_000, "\ud800", "1,2", "9" * 24),
)


def tables(name):
    """The contents of a CSV file in which one cell is another, or lines are missing, twice or in another order."""
    content = (Path("good/run") / name).read_bytes()
    lines = [line.split(",") for line in content.decode().splitlines()]
    for row in range(len(lines)):
        for column in range(len(lines[0])):
            for cell in CELLS:
                changed = [list(line) for line in lines]
                changed[row][column] = cell
                text = "".join(",".join(line) + "\n" for line in changed)
                yield (row, column, cell[:10]), text.encode("utf-8", "surrogatepass")
    by_line = content.splitlines(keepends=True)
    yield from {
        "no header": b"".join(by_line[1:]),
        "header only": by_line[0],
        "last twice": content + by_line[-1],
        "first two swapped": b"".join([by_line[0], by_line[2], by_line[1], *by_line[3:]]),
        "carriage returns": content.replace(b"\n", b"\r\n"),
        "byte order mark": b"\xef\xbb\xbf" + content,
        "no end": content[:-1],
        "empty lines": b"\n\n\n",
    }.items()


def with_table(name, content):
    """The files of a run whose last checkpoint says that this is its ``metrics.csv``."""
    if name != "metrics.csv":
        return {f"run/{name}": content}
    path = "run/checkpoints/round_000004.safetensors"
    with safe_open(Path("good") / path, framework="pt") as file:
        facts = json.loads(file.metadata()["fedsim"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    del facts["digest"]
    facts["run"]["metrics"] = {"size": len(content), "digest": digest_of(content).hexdigest()}
    checkpoint = save(tensors, metadata={"fedsim": checkpoints._sealed(json.dumps(facts))})
    return {"run/metrics.csv": content, path: checkpoint, "run/summary.json": None}


def test_some_tables(fedsim, good):
    for name, words in (("metrics.csv", COMMANDS), ("timing.csv", ("resume",))):
        for number, (case, content) in enumerate([*tables(name)][:: 23 if name == "metrics.csv" else 41]):
            command = list(words)[number % len(words)]
            attack(fedsim, COMMANDS[command], with_table(name, content), (name, case))


@pytest.mark.slow
def test_every_table(fedsim, good):
    for name, words in (("metrics.csv", COMMANDS), ("timing.csv", ("resume",))):
        for case, content in tables(name):
            for command in words:
                attack(fedsim, COMMANDS[command], with_table(name, content), (name, case))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"round,loss\n0,x\n", "m.csv, line 2, loss: 'x' is not a number"),
        (b"round,loss\n0,1_0\n", "m.csv, line 2, loss: '1_0' is not a number"),
        (b"round,loss\n0,1,2\n", "m.csv, line 2: has 3 cells, and there are 2 columns"),
        (b"round,loss\n0,1\n2,1\n", "m.csv, line 3: is of round 2, not 1"),
        (b"round,loss\n0.0,1\n", "m.csv, line 2: is of round 0.0, not 0"),
        (b"loss\n1\n", "m.csv: has no column of rounds"),
        (b"round,round\n0,0\n", "two columns of one name"),
        (b'round,loss\n0,"1\n', "m.csv: cannot be read as a CSV file (unexpected end of data)"),
        (b"round,loss\n0,\xff\n", "m.csv: cannot be read as a CSV file"),
        (b"round,loss\n0," + b"1" * 200_000, "m.csv: cannot be read as a CSV file (field larger than field limit"),
    ],
)
def test_rows_that_are_none(content, words):
    with pytest.raises(UserError) as error:
        read_rows(content, Path("m.csv"))
    assert words in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# the bounds themselves


@pytest.mark.parametrize("nested", ["{a: ", "[", "- "])
def test_depth_of_yaml(nested):
    closing = {"{a: ": "}", "[": "]", "- ": ""}[nested]
    read_yaml(nested * DEEPEST + "1" + closing * DEEPEST, "x")
    for depth in (DEEPEST + 1, 80, 3000):
        with pytest.raises(UserError, match=f"x: has more than {DEEPEST} lists and mappings within each other"):
            read_yaml(nested * depth + "1" + closing * depth, "x")


def test_numbers_and_texts_of_json(tmp_path):
    assert parse_json(f"[{2**64 - 1}, {-(2**63)}]") == [2**64 - 1, -(2**63)]
    for text in (str(2**64), str(-(2**63) - 1), "9" * 100_000):
        with pytest.raises(ValueError, match="beyond 64 bits"):
            parse_json(text)
    for text in (r'"\ud800"', r'{"\ud800": 1}', "[" * 30 + "]" * 30, "[" * 100_000, "{"):
        with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
            parse_json(text)
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(UserError, match=r"x\.json: cannot be read as JSON"):
        read_json(tmp_path / "x.json")


def test_what_fits_in_no_memory():
    refuse_larger(2**20, "a.b", 3, "things", "take fewer")
    with pytest.raises(UserError, match=r"a\.b=3: things would take 4,294,967,296\.0 GiB, and there are .* take fewer"):
        refuse_larger(2**62, "a.b", 3, "things", "take fewer")
