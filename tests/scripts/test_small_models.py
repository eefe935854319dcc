"""`scripts/small_models.py`: its tasks work with every cell, and its table has the right shape and numbers."""

import importlib.util
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.config.compose import Request, check_request, normalise
from fedsim.data.dataset import Task
from fedsim.extras import install_hint
from fedsim.federation.prepare import prepare

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "small_models.py"
SMALL = (
    *("data.clients=2", "data.samples_per_client=3", "data.test_samples_per_client=2", "data.length=4", "rounds=1"),
    *("model.num_layers=1", "client.epochs=1", "engine.kernels=torch"),
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch):
    """Return ``study(*arguments)``, which runs the script, with the module as its attribute."""
    spec = importlib.util.spec_from_file_location("small_models", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "small_models", module)  # where its dataclasses look up their names
    spec.loader.exec_module(module)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["small_models.py", *arguments])
        module.main()

    call.module = module
    return call


@pytest.fixture
def without_onnx(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else find(name))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_every_task_works_with_every_cell(study, tmp_path, cell):
    study.module.write_play(tmp_path / "play.txt")
    found = set()
    for task in study.module.TASKS.values():
        more = (f"data.path={tmp_path}/play.txt",) if "data=text" in task.overrides else ()
        chosen = (*task.overrides, *study.module.BASE, *more, f"model={cell}", "model.parameters=1000")
        simulation = prepare(check_request(normalise(Request(chosen)))[0].experiment)
        assert simulation.population.num_clients in (5, 10)
        assert task.metric in [column.name for column in simulation.columns]
        assert simulation.task.arch.layout.num_parameters == pytest.approx(1000, rel=0.1)
        found.add(simulation.population.task)
    assert found == set(Task)


def test_the_table(study, without_onnx, tmp_path, capsys, monkeypatch):
    """An RNN of 6 on 10 features with one output: 6 * 18 + 7 = 115 parameters; 6 * 16 products a step, 6 at the end."""
    arguments = ("--tasks", "regression", "--sizes", "110", "--seeds", "2", "--out", str(tmp_path / "runs"), *SMALL)
    study(*arguments)
    printed = capsys.readouterr()
    assert printed.err == f"no int8 columns, which need onnx and onnxruntime; {install_hint('onnx')}\n"
    title, _, head, line, *rows = printed.out.strip().splitlines()
    assert title.startswith("Regression")
    assert head.endswith("| bytes down, up | float32 | pruned 50 % | pruned 80 % |")
    assert line == "|---|" + "---:|" * 8
    table = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in table] == ["rnn", "gru", "lstm"]
    assert 6 * (10 + 6 + 2) + 7 == 115
    assert table[0][1:6] == ["6", "115", "96", str(4 * 96 + 6), "460, 460"]
    sizes = [[float(text.split()[0]) for text in row[6:]] for row in table]
    zipped = [[float(text.split("(")[1].split(")")[0]) for text in row[6:]] for row in table]
    assert all(one == pytest.approx(other, abs=0.1) for one, *others in sizes for other in others)  # dense files
    assert all(full > half > fifth for full, half, fifth in zipped)
    assert all(" ± " in row[6] and " ± " not in row[7] for row in table)
    # Once more, from the runs that are already there
    monkeypatch.setattr(study.module, "run_experiment", lambda *_: pytest.fail("it ran again"))
    study(*arguments)
    assert capsys.readouterr().out == printed.out


def test_int8_where_there_is_onnx(study, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    study("--tasks", "regression", "--sizes", "2000", "--seeds", "1", *SMALL)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("int8") == 2
    cells = printed.out.strip().splitlines()[-1].split("|")  # of the LSTM, whose weights take a byte each
    assert float(cells[8].split()[0]) < 0.6 * float(cells[7].split()[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "vowel"), "--tasks vowel: known are vowels, text, regression"),
        (("--sizes", "many"), "must be whole numbers"),
        (("--seeds", "0"), "--seeds at least 1"),
        (("--tasks", "regression", "--sizes", "5", *SMALL), "error: model.parameters=5: RNN has at least 15"),
        (("--tasks", "regression", "client.lr=1"), "client.lr=1: no such key"),
    ],
)
def test_mistakes(study, without_onnx, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        study(*arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
