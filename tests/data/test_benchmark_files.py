"""The table of the benchmarks' own files in docs/texts.md: each command, as printed, on small files of that layout."""

import json
import re
import shlex
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import fedsim
from fedsim.cli import main as cli

PAGE = Path(fedsim.__file__).parents[1] / "docs" / "texts.md"
ROW = re.compile(r"^\| (?P<name>[^|]+) \| `(?P<command>fedsim run [^`]+)` \|$", re.M)
COMMANDS = {match["name"].partition(":")[0]: match["command"] for match in ROW.finditer(PAGE.read_text())}
TEXT = "Now is the winter of our discontent made glorious summer by this sun of York; and all the clouds that lour'd. "


def tff():
    Path("tff").mkdir()
    for part in ("train", "test"):
        with h5py.File(f"tff/shakespeare_{part}.h5", "w") as file:
            for role in ("THE_TRAGEDY_OF_KING_LEAR_CORDELIA", "ALL_S_WELL_THAT_ENDS_WELL_CELIA"):
                said = [TEXT.encode()] * (3 if part == "train" else 1)
                file.create_dataset(f"examples/{role}/snippets", data=said, dtype=h5py.string_dtype("ascii"))


def write(file, users, extra=0):
    data = {name: {"x": [x for x, _ in pairs], "y": [y for _, y in pairs]} for name, pairs in users.items()}
    counts = [len(pairs) + extra for pairs in users.values()]
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"users": [*users], "num_samples": counts, "user_data": data}))


def windows(first, last):
    text = TEXT * 3
    return [(text[k : k + 80], text[k + 80]) for k in range(first, last)]


def leaf_shakespeare():
    """160 windows of each role train; the 79 after them are left out, though num_samples counts them, and 3 test."""
    roles = ("THE_TRAGEDY_OF_KING_LEAR_CORDELIA", "PERICLES_GOWER")
    folder = "leaf/data/shakespeare/data"
    write(f"{folder}/train/all_data_niid_0_keep_0_train_8.json", {role: windows(0, 160) for role in roles})
    write(f"{folder}/test/all_data_niid_0_keep_0_test_8.json", {role: windows(239, 242) for role in roles}, 79)


def tweets(user, count):
    happy = [k >= count // 2 for k in range(count)]
    return [
        (
            [str(k), f"Mon Apr {k + 1:02d} 22:19:45 PDT 2009", "NO_QUERY", user, f"day {k}, {word}", "training"],
            int(good),
        )
        for k, good, word in ((k, good, "good" if good else "bad") for k, good in enumerate(happy))
    ]


def leaf_by_user():
    folder = "leaf/data/sent140/data"
    write(f"{folder}/train/train.json", {name: tweets(name, 6) for name in ("ann", "bob", "cid")})
    write(f"{folder}/test/test.json", {"dee": tweets("dee", 7)})


def leaf_unsplit():
    write("all_data.json", {name: tweets(name, 10) for name in ("ann", "bob")})


def fedprox():
    rng = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 1)):
        users = {
            f"f_{k:05d}": [(x, float(y)) for x, y in zip(rng.normal(size=(count, 60)).tolist(), range(9), strict=False)]
            for k in range(3)
        }
        write(f"data/synthetic_1_1/data/{part}/my{part}.json", users)


FILES = {
    "TensorFlow Federated": (tff, 2, 2 * 3 * 2, 2 * 2),  # 110 characters and 2 tokens are 2 pieces of up to 81
    "LEAF, Shakespeare, split by sample": (leaf_shakespeare, 2, 320, 6),
    "LEAF, Sent140, split by user": (leaf_by_user, 3, 18, 7),
    "LEAF, not split": (leaf_unsplit, 2, 16, 4),
    "FedProx, synthetic points": (fedprox, 3, 27, 3),
}


def test_every_row_of_the_page_has_its_files():
    assert [*COMMANDS] == [*FILES]


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark(name, tmp_path, monkeypatch, capsys):
    """The plan of the command has the clients and samples that the files hold."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    make, clients, train, test = FILES[name]
    make()
    monkeypatch.setattr(sys, "argv", [*shlex.split(COMMANDS[name]), "--dry-run"])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    out, err = capsys.readouterr()
    assert exit_info.value.code in (0, None), err
    plan = " ".join(out.split())
    assert f"clients {clients}, " in plan
    found = tuple(int(re.search(rf"{part} samples (\d+)", plan)[1]) for part in ("training", "test"))
    assert found == (train, test)
    assert ("say nothing about them" in plan) == ("by user" in name)


def test_a_model_meets_later_tweets(tmp_path, monkeypatch, capsys):
    """Tweets of other words are read with the vocabulary of the model."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    leaf_unsplit()
    write("later.json", {"eve": tweets("eve", 12)})
    arguments = ["rounds=1", "threads=1", "device=cpu", "console=none", "engine.kernels=torch", "model.hidden_size=2"]

    def fedsim_command(*words):
        monkeypatch.setattr(sys, "argv", ["fedsim", *words])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        said = capsys.readouterr()
        return exit_info.value.code or 0, said.out + said.err

    run = shlex.split(COMMANDS["LEAF, not split"])[1:]
    code, said = fedsim_command(*run, *arguments, "hydra.run.dir=run")
    assert code == 0, said
    code, said = fedsim_command("evaluate", "run", "data.path=later.json")
    assert code == 0, said
    # Days 0 to 7 trained; so did day, "," and both words. The later file has days 8 to 11 besides.
    assert "4 words are not in the model's vocabulary, and count as unknown" in said
