"""`scripts/torture.py`: a case of each mishap, and that it would notice what must not happen."""

import importlib.util
import json
import os
import random
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.recording.run_directory import CsvWriter
from fedsim.runs import checkpoints

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "torture.py"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def torture():
    spec = importlib.util.spec_from_file_location("torture", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torture"] = module  # for its dataclasses
    spec.loader.exec_module(module)
    yield module
    del sys.modules["torture"]


def test_a_case_of_each_mishap(torture, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torture.py", "--cases", "7", "--seed", "5"])
    assert torture.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:-1]] == [*torture.KINDS]
    assert lines[-1].startswith("0 went wrong")


@pytest.mark.slow
def test_a_minute(torture, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["torture.py", "--cases", "140", "--seed", "11"])
    assert torture.main() == 0


def test_it_notices_other_bytes(torture, tmp_path, monkeypatch):
    """A digest that is not looked at lets flipped bits through: one of these cases has one in the model."""
    monkeypatch.setattr(checkpoints, "_digest", lambda tensors: "")
    noticed = 0
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case = torture.Case(random.Random(seed), folder)  # noqa: S311
        settings, code = torture._whole(case, "checkpoint.every=1", "eval.every=1")
        case.call("run", *settings, f"hydra.run.dir={folder / 'run'}", before=torture._dying_at(35), clean=False)
        file = sorted((folder / "run").glob("checkpoints/*.safetensors"))[-1]
        content = bytearray(file.read_bytes())
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        end = 8 + int.from_bytes(content[:8], "little") + header["row"]["data_offsets"][0] + 7
        content[end] ^= 1  # of an exponent
        file.write_bytes(content)
        try:
            torture._damaged(case, settings, code)
        except torture.Wrong as wrong:
            noticed += "other bytes" in str(wrong)
    assert noticed > 0


def test_it_notices_tracebacks_and_hangs(torture, tmp_path, monkeypatch):
    case = torture.Case(random.Random(0), tmp_path)  # noqa: S311
    settings = case.settings("rounds=2", "console=none")

    def fail():
        def write(self, row):
            raise TypeError("a bug")

        CsvWriter.write = write

    with pytest.raises(torture.Wrong, match="a bug"):
        case.call("run", *settings, f"hydra.run.dir={tmp_path / 'run'}", before=fail)
    monkeypatch.setattr(torture, "SECONDS", 0.2)
    with pytest.raises(torture.Wrong, match="hangs"):
        case.call("list", before=lambda: os.read(os.pipe()[0], 1))


def test_the_same_case_again(torture, tmp_path):
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        drawn.append(torture.Case(random.Random("3 4"), tmp_path / name).settings())  # noqa: S311
    assert drawn[0] == drawn[1]
