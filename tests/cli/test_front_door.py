"""Help, version, lists and what the console shows."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim import __version__


def test_the_version(fedsim):
    assert fedsim("--version") == (0, f"fedsim {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(fedsim, arguments):
    answer = fedsim(*arguments)
    assert (answer.code, answer.err) == (0, "")
    for command in ("run", "list", "init", "doctor", "partition", "compare"):
        assert re.search(rf"\b{command}\b", answer.out)


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("run", "fedsim run model=gru aggregator=fedavg"),
        ("list", "fedsim list aggregator"),
        ("list", "fedsim list client=default"),
        ("init", "fedsim init --rule same_length"),
        ("compare", "fedsim compare "),
        ("partition", "fedsim partition partition=dirichlet partition.alpha=0.3"),
    ],
)
def test_help_of_a_command_shows_examples(fedsim, monkeypatch, command, example):
    monkeypatch.setenv("COLUMNS", "80")
    answer = fedsim(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "Examples" in answer.out
    assert example in answer.out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fedsim.cli import main as cli; sys.argv = ['fedsim', 'run', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "slow = {'torch._C', 'pandas', 'hydra', 'omegaconf', 'numpy._core', 'numba', 'aeon', 'yaml'}\n"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"
    assert "Examples" in done.stdout


def test_python_dash_m(process):
    answer = process("--version")
    assert answer.communicate(timeout=60) == (f"fedsim {__version__}\n", "")
    assert answer.returncode == 0


def test_list(fedsim, elsewhere):
    answer = fedsim("list")
    assert (answer.code, answer.err) == (0, "")
    for group in ("model", "client/optimizer", "aggregator/combine", "experiment"):
        assert f"\n{group}\n" in f"\n{answer.out}"
    assert "model=gru " in answer.out
    assert "Elman network (Elman 1990), tanh or relu" in answer.out
    assert not list(elsewhere.iterdir())


def test_list_one_group(fedsim):
    answer = fedsim("list", "aggregator/correction")
    first = [line.split()[0] for line in answer.out.splitlines() if line.strip()]
    assert first[0] == "aggregator/correction"
    assert all(word.startswith("aggregator/correction=") for word in first[1:])
    assert {"aggregator/correction=none", "aggregator/correction=prox"} <= set(first)


def test_list_options_of_the_user(fedsim, write_config):
    write_config("model/mine.yaml", "# @package _global_\n# Mine [/bold] :car: ä\n_target_: mine.Model\n")
    write_config("model/bare.yaml", "_target_: mine.Model\n")
    folder = write_config("weather/[b]rain.yaml", "a: 1\n")
    answer = fedsim("list", "--config-dir", folder)
    assert (answer.code, answer.err) == (0, "")
    assert re.search(r"model=mine +Mine \[/bold\] :car: ä *\n", answer.out)
    assert "model=bare" in answer.out
    assert "weather=[b]rain" in answer.out


def test_a_console_that_shows_nothing(fedsim, tiny):
    assert fedsim("run", *tiny, "console=none") == (0, "", "")


def test_plain_lines(fedsim, tiny):
    answer = fedsim("run", *tiny, "hydra.run.dir=run")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert re.match(r"GRU with \d+ parameters, 3 clients, 12 training and 6 test samples", lines[0])
    assert lines[1].startswith("to beat: test_accuracy ")
    assert lines[2].startswith("chosen: model.hidden_size=2, data=Synthetic(task=classification, clients=3, ")
    assert "1 thread, seed 0" in lines[3]
    assert [line.split("  ")[0] for line in lines[5:8]] == ["round 0/2", "round 1/2", "round 2/2"]
    assert "train_loss" not in lines[5]
    assert "test_accuracy 0." in lines[6] or "test_accuracy 1.0" in lines[6] or "test_accuracy 0 " in lines[6]
    assert re.search(r"^done after round 2 \(round limit\); see .*run/metrics\.csv$", answer.out, re.MULTILINE)


def test_rich_without_a_terminal(fedsim, tiny):
    answer = fedsim("run", *tiny, "console=rich")
    assert (answer.code, answer.err) == (0, "")
    assert "test accuracy" in answer.out


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_rich_on_a_terminal(tiny):
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
    tiny = [override for override in tiny if not override.startswith("console")]
    command = [sys.executable, "-m", "fedsim", "run", *tiny, "rounds=30", "client.validation_fraction=0.3"]
    running = subprocess.Popen(command, stdout=follower, stderr=subprocess.PIPE, env=environment)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # on Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    _, err = running.communicate(timeout=60)
    os.close(leader)
    assert (running.returncode, err) == (0, b"")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")
    assert "30/30" in text
    table = [line for line in text.split("\n") if re.match(r"(round +clients| *\d+ +3 )", line)]
    assert table
    assert all(len(line.rstrip()) <= 80 for line in table)
    assert any(re.match(r" *30 +3 +\d", line) for line in table)


def test_a_run_elsewhere_does_not_need_the_usual_place(fedsim, tiny):
    """What is compared with the default settings is never given a directory."""
    Path("outputs").write_text("a file")
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == 0
    assert Path("outputs").read_text() == "a file"


def test_a_name_forges_no_line(fedsim):
    name = "a\nwriting to elsewhere.csv"
    Path(name).write_text("x,y\n" + "".join(f"{row},{row % 3}\n" for row in range(60)))
    small = (
        "data.window=4",
        "num_clients=2",
        "rounds=1",
        "model.hidden_size=2",
        "engine.kernels=torch",
        "console=plain",
    )
    answer = fedsim("run", "data=csv", f"data.path='{name}'", "data.target_column=y", "partition=iid", *small)
    assert answer.code == 0, answer
    (line,) = [line for line in answer.out.splitlines() if line.startswith("chosen: ")]
    assert r"path=a\nwriting to elsewhere.csv" in line
    assert "writing to elsewhere.csv" not in answer.out.splitlines()
