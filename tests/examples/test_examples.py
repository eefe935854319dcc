"""The examples and the cells of the notebook run, on small data, and say what they are to say."""

import importlib.util
import json
from pathlib import Path

import pytest

import fedsim

EXAMPLES = Path(fedsim.__file__).parents[1] / "examples"
SMALL = {
    "model.hidden_size": 2,
    "rounds": 1,
    "device": "cpu",
    "engine.kernels": "torch",
    "threads": 1,
    "console": "none",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_keyboard(capsys):
    Path("play.txt").write_text("\n\n".join(f"Role {'abcdefghijkl'[k % 12]}:\nWho is there?" for k in range(24)))
    found = load("keyboard").main("play.txt", **SMALL)
    assert set(found) == {"none", "local", "centralised"}
    assert capsys.readouterr().out.count("next characters right") == 3


def test_the_turbines(capsys):
    for part in ("train", "test"):
        rows = ((engine, cycle, *range(23), cycle) for engine in (1, 2, 3) for cycle in range(1, 41))
        Path(f"{part}_FD001.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    Path("RUL_FD001.txt").write_text("5\n50\n200\n")
    final = load("turbines").main(".", **SMALL)
    assert list(final) == sorted(final)
    assert capsys.readouterr().out.count("flights (root mean square)") == 3


def test_the_hospital(capsys):
    found = load("hospital").main(**SMALL)
    epsilons = [run.metrics["epsilon"].iloc[-1] for _, run in found[1:]]
    assert epsilons == sorted(epsilons, reverse=True)  # more noise, less epsilon
    assert "epsilon inf" in capsys.readouterr().out


def test_the_robust_study(capsys):
    tables = load("robust_study").main(seeds=(0,), **SMALL)
    assert set(tables) == {"none", "sign_flip", "gaussian"}
    assert capsys.readouterr().out.count("\n") >= 5


def test_each_is_one_screen_long():
    for file in EXAMPLES.glob("*.py"):
        assert file.read_text().count("\n") <= 45, file


def test_the_notebook(monkeypatch, capsys):
    import matplotlib

    matplotlib.use("agg")
    notebook = json.loads((EXAMPLES / "tutorial.ipynb").read_text())
    assert notebook["nbformat"] == 4
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # committed without outputs
            exec("".join(cell["source"]), names)  # noqa: S102  # it is ours
    assert names["run"].metrics["test_accuracy"].iloc[-1] > 0.9
    assert names["outputs"].shape == (2, 9)
    assert "write client.optimizer.lr=0.1" in capsys.readouterr().out
