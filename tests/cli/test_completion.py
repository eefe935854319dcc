"""Completion: the candidates, Typer's protocol for each shell, and bash itself in a terminal."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.cli import completion
from fedsim.cli.completion import candidates
from fedsim.config import compose as config
from fedsim.config import option_files

MODELS = ["cifg", "gru", "gru_reset_before", "lstm", "rnn"]


# Candidates


def test_options_of_a_group():
    assert candidates("model=") == [f"model={option}" for option in MODELS]
    assert candidates("model=g") == ["model=gru", "model=gru_reset_before"]
    assert candidates("aggregator/server_optimizer/schedule=co") == [
        "aggregator/server_optimizer/schedule=constant",
        "aggregator/server_optimizer/schedule=cosine",
    ]
    assert candidates("model=x") == []


def test_lists_of_options():
    assert candidates("model=gru,l") == ["model=gru,lstm"]
    assert candidates("model=gru,lstm,") == [
        "model=gru,lstm,cifg",
        "model=gru,lstm,gru_reset_before",
        "model=gru,lstm,rnn",
    ]


@pytest.mark.parametrize("group", config.list_options())
def test_every_group_has_its_options(group):
    assert candidates(f"{group}=") == [f"{group}={option}" for option in config.list_options()[group]]


def test_names_step_by_step():
    assert candidates("mod") == ["model.", "model="]
    assert candidates("aggregator/") == [
        *("aggregator/combine=", "aggregator/correction=", "aggregator/server_optimizer/"),
        "aggregator/server_optimizer=",
    ]
    assert candidates("aggregator/com")[0] == "aggregator/combine=bulyan"  # the only group: its options at once
    assert "rounds=" in candidates("")
    assert "model=" in candidates("")
    assert candidates("nothing") == []


def test_a_single_key_comes_with_and_without_its_default():
    assert candidates("client.epo") == ["client.epochs=", "client.epochs=2"]
    assert candidates("eval.ev") == ["eval.every=", "eval.every=1"]
    assert candidates("model.bia") == ["model.bias=true", "model.bias=false"]
    assert candidates("model.bias=f") == ["model.bias=false"]
    assert candidates("stop.pat") == ["stop.patience=", "stop.patience=null"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["aggregator=fedprox"], "aggregator.correction.mu="),
        (["aggregator/correction=prox"], "aggregator.correction.mu="),
        (["aggregator=fedavg,fedprox"], "aggregator.correction.mu="),
        (["experiment=gru_regression"], "client.optimizer.beta1="),
        (["client/optimizer=adam"], "client.optimizer.beta1="),
        (["data=csv"], "client.optimizer.beta1="),
        (["partition=dirichlet"], "partition.alpha="),
        (["tracker=wandb"], "tracker.project="),
    ],
)
def test_keys_are_those_of_the_options_chosen(words, key):
    below = f"{key.rpartition('.')[0]}."
    assert key not in candidates(below)
    assert key in candidates(below, words)


def test_the_optimizer_that_the_data_bring():
    """Its keys and defaults are offered instead of SGD's, unless FedSGD or the user asks for SGD."""
    assert "client.optimizer.momentum=" not in candidates("client.optimizer.", ["data=csv"])
    assert candidates("client.optimizer.lr=", ["data=csv"]) == ["client.optimizer.lr=0.01"]
    for more in ("client/optimizer=sgd", "aggregator=fedsgd"):
        assert candidates("client.optimizer.lr=", ["data=csv", more]) == ["client.optimizer.lr=0.3"]


def test_keys_are_those_that_hydra_composes():
    """Completion offers every key that a run accepts, and no other."""
    for words in (["model=lstm"], ["aggregator=fedadam", "partition=dirichlet", "client/optimizer=adamw"]):
        experiment = config.check_request(config.Request(tuple(words)))[0].experiment
        known = completion.flat(config.record_of(experiment))
        known = {key for key in known if not key.endswith("_target_") and key != "format_version"}
        folders = option_files.config_folders(None)
        assert set(option_files.keys_of(folders, option_files.groups_of(folders), words)) == known


def test_options_of_the_user(tmp_path):
    (tmp_path / "aggregator" / "combine").mkdir(parents=True)
    (tmp_path / "aggregator" / "combine" / "mine.yaml").write_text("_target_: mine.Mine\nsharpness: 3\n")
    folder = str(tmp_path)
    assert candidates("aggregator/combine=mi", config_dir=folder) == ["aggregator/combine=mine"]
    chosen = ["aggregator/combine=mine"]
    assert candidates("aggregator.combine.sh", chosen, folder)[-1] == "aggregator.combine.sharpness=3"
    (tmp_path / "aggregator" / "combine" / "mine.yaml").write_text("[")
    context = type("Context", (), {"params": {"overrides": chosen, "config_dir": folder}})
    assert completion.complete_overrides(context, "aggregator.combine.sh") == []  # the run itself reports it


def test_keys_of_a_recorded_run(tmp_path):
    (tmp_path / "config.yaml").write_text("format_version: 1\nrounds: 7\nattack:\n  _target_: a.B\n  strength: 2.5\n")
    assert candidates("attack.", run=tmp_path) == ["attack.strength=", "attack.strength=2.5"]
    assert candidates("rou", run=tmp_path) == ["rounds=", "rounds=7"]
    assert candidates("rou", run=tmp_path / "none") == ["rounds=", "rounds=50"]


# The protocol


def ask(shell, *words):
    """The command's answer when this shell asks it to complete the last word."""
    line = " ".join(["fedsim", *words])
    environment = {"_FEDSIM_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment |= {"_TYPER_COMPLETE_ARGS": line, "COMP_WORDS": "\n".join(["fedsim", *words])}
    program = "import sys; from fedsim.cli.main import main; sys.argv = ['fedsim']; main()"
    asked = os.environ | environment | {"COMP_CWORD": str(len(words))}
    done = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_gets_the_part_after_the_equals_sign():
    assert ask("bash", "run", "model", "=", "g") == ["gru", "gru_reset_before"]
    assert ask("bash", "run", "model", "=") == MODELS
    assert ask("bash", "run", "aggregator", "=", "fedprox", "aggregator.correction.m")[-1].startswith(
        "aggregator.correction.mu="
    )
    assert ask("bash", "run", "model=l") == ["model=lstm"]  # if = is not in COMP_WORDBREAKS
    assert ask("bash", "resume", "") == []  # a path, which bash completes
    assert ask("bash", "partition", "partition", "=", "diri") == ["dirichlet"]
    assert ask("bash", "evaluate", "RUN_DIR", "dty")[0] == "dtype="
    assert ask("bash", "comp") == ["compare"]


def test_zsh():
    (answer,) = [" ".join(ask("zsh", "run", "model=g"))]
    assert answer == '_arguments \'*: :(("model=gru" "model=gru_reset_before"))\''


def test_fish():
    assert ask("fish", "run", "model=g") == ["model=gru", "model=gru_reset_before"]
    assert ask("fish", "list", "aggregator/c") == ["aggregator/combine", "aggregator/correction"]
    assert ask("fish", "list", "client=d") == ["client=default"]
    assert ask("fish", "list", "clint=d") == []


def test_completion_imports_nothing_heavy():
    program = (
        "import sys; from fedsim.cli import completion, main; completion.candidates('client.ep');"
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# bash in a terminal


class Terminal:
    def __init__(self, folder):
        script = folder / "fedsim.sh"
        program = folder / "fedsim"
        program.write_text(f"#!{sys.executable}\nfrom fedsim.cli.main import main\nmain()\n")
        program.chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "> "}
        source = environment | {"_FEDSIM_COMPLETE": "source_bash"}
        done = subprocess.run([program], env=source, capture_output=True, text=True, check=True)
        script.write_text(done.stdout)
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)  # noqa: S606
        self.send(f"source {script}; bind 'set bell-style none'; bind -x '\"\\C-o\": echo \"<$READLINE_LINE>\"'\n")

    def send(self, text):
        os.write(self.file, text.encode())

    def line(self, typed):
        """The line after typing `typed` and Tab."""
        self.send(f"\x15{typed}\t\x0f")
        seen, end = "", time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([self.file], [], [], 0.2)[0]:
                seen += os.read(self.file, 4096).decode(errors="replace")
            after = seen.rpartition("<fedsim")[2]
            if "<fedsim" in seen and ">" in after:
                return "fedsim" + after.partition(">")[0]
        raise AssertionError(seen)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_itself(tmp_path):
    terminal = Terminal(tmp_path)
    Path(tmp_path, "outputs").mkdir()
    try:
        assert terminal.line("fedsim ru") == "fedsim run "
        assert terminal.line("fedsim run model=l") == "fedsim run model=lstm "
        assert terminal.line("fedsim run model=g") == "fedsim run model=gru"
        assert terminal.line("fedsim run model=gru,l") == "fedsim run model=gru,lstm "
        assert terminal.line("fedsim run aggregator/combine=geo") == "fedsim run aggregator/combine=geometric_median "
        assert terminal.line("fedsim run client.epo") == "fedsim run client.epochs="
        assert terminal.line("fedsim run client.epochs=") == "fedsim run client.epochs=2 "
        assert terminal.line("fedsim run partition=dirichlet partition.al") == (
            "fedsim run partition=dirichlet partition.alpha="
        )
        assert terminal.line("fedsim resume out") == "fedsim resume outputs/"
    finally:
        os.close(terminal.file)
        os.waitpid(terminal.pid, 0)
