"""Words of other tools: the message says what to write, and what it says to write is accepted."""

import re
import shlex
from pathlib import Path

import pytest

from fedsim.config import option_files
from fedsim.config.words import KEYS, OPTIONS, VALUES

WAYS = {
    "lr=0.1": "write client.optimizer.lr=0.1",
    "learning_rate=0.1": "write client.optimizer.lr=0.1",
    "client.lr=0.1": "write client.optimizer.lr=0.1",
    "alpha=0.3": "write partition=dirichlet partition.alpha=0.3",
    "partition=non-iid": "write partition=dirichlet partition.alpha=0.3 (labels), partition=quantity (sizes), or",
    "device=gpu": "must be one of auto, cpu, cuda; write device=cuda",
    "clients=20": "write num_clients=20",
    "participation=0.5": "write sampler.fraction=0.5",
    "strategy=fedavg": "write aggregator=fedavg",
    "algorithm=scaffold": "write aggregator=scaffold",
    "algorithm=fedbuff": "write schedule=fedbuff",
    "mu=0.1": "write aggregator=fedprox aggregator.correction.mu=0.1",
    "link=topk": "write link/up=topk",
    "seed=1-3": "a sweep over a range is -m seed=range(1,4)",
    "gpu=true": "write device=cuda (or cpu, or auto)",
    "output_dir=x": "write hydra.run.dir=x (a sweep: hydra.sweep.dir=x)",
    "data=mnist": "fedsim's data are sequences, not pictures: data=japanese_vowels,",
    "model=transformer": "fedsim trains recurrent models; to compare, model=gru, lstm or rnn",
    "attack.fraction=0.2": "it belongs to attack=alie, backdoor, gaussian,",
    "partition.alpha=0.2": "it belongs to partition=dirichlet: choose that too",
    "client.optimizer.beta1=0.8": "it belongs to client/optimizer=adam, adam_tables or adamw: choose that too",
    "hidden_size=8": "write model.hidden_size=8",
}


@pytest.mark.parametrize("text", WAYS)
def test_the_message_is_the_way(refused, text):
    line = refused("run", text)
    assert line.startswith(f"{text}: ")
    assert WAYS[text] in line
    assert "did you mean" not in line


def test_what_is_there_already_is_not_asked_for_again(refused):
    assert refused("run", "partition=dirichlet", "alpha=0.3").endswith("write partition.alpha=0.3")
    assert refused("run", "aggregator=fedprox", "mu=0.3").endswith("write aggregator.correction.mu=0.3")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("model=gru",), "model=gru: a command comes first: fedsim run model=gru"),
        (("run", "--model", "gru"), "--model: settings have no dashes; write model=VALUE"),
        (("run", "--rounds=3"), "--rounds: settings have no dashes; write rounds=VALUE"),
        (("run", "model", "=", "gru"), "model = gru: there are no spaces around =; write model=gru"),
        (("run", "-m", "seed=[1,2,3]"), "seed=[1, 2, 3]: must be a whole number; a sweep over several values has no "
         "brackets: seed=1,2,3"),
        (("run", "-m", "lr=0.1,0.2"), "lr=0.1: no such key; write client.optimizer.lr=0.1"),
        (("run", "config.yaml"), "config.yaml: No such file or directory"),
        (("compare",), "compare: name runs or sweeps, such as fedsim compare outputs/multirun; there is no sweep here "
         "yet"),
    ],
)  # fmt: skip
def test_mistakes_of_the_shell(refused, arguments, line):
    assert refused(*arguments) == line


@pytest.mark.parametrize(
    "way", sorted({*KEYS.values(), *VALUES.values(), *(w for ways in OPTIONS.values() for w in ways.values())})
)
def test_every_way_names_what_exists(way):
    """Groups, options and keys in the tables are fedsim's; a value of a key is not looked at."""
    folders = option_files.config_folders(None)
    groups = option_files.groups_of(folders)
    words = [word.strip("(),") for word in way.split() if "=" in word]
    assert words or "fedsim resume" in way
    for word in words:
        name, _, value = word.partition("=")
        if name in groups:
            assert value in ("{}", *groups[name]) or value.strip("'") in groups[name], word
        elif not name.startswith("hydra"):
            chosen = [other for other in words if other.partition("=")[0] in groups]
            every = (
                {
                    key
                    for group in groups
                    for option in groups[group]
                    for key in option_files.keys_of(folders, groups, [*chosen, f"{group}={option}"])
                }
                if name not in option_files.keys_of(folders, groups, chosen)
                else {name}
            )
            assert name in every, word


def test_no_word_of_another_tool_is_one_of_ours():
    folders = option_files.config_folders(None)
    groups = option_files.groups_of(folders)
    known = {*groups, *option_files.keys_of(folders, groups, ())}
    assert not {*KEYS} & known
    for group, ways in OPTIONS.items():
        assert not {*ways} & {*groups[group]}, group


# ---------------------------------------------------------------------------------------------------------------------
# fedsim run FILE.yaml


MINE = """\
# what one would type
model: lstm
rounds: 1
name: 'a, b: "c" \\d {x} [y] $z'
tags: [one, 'two, three', '4', null-ish]
client:
  optimizer: adam
  batch_size: 4
client.optimizer.lr: 0.002
sampler: {fraction: 0.5}
data:
  _self_: 1
"""


def test_a_file_of_settings(fedsim, tiny):
    Path("mine.yaml").write_text(MINE.replace("data:\n  _self_: 1\n", ""))
    words = [word for word in tiny if not word.startswith("rounds")]
    answer = fedsim("run", "mine.yaml", *words, "hydra.run.dir=run")
    assert answer.code == 0, answer
    import yaml

    record = yaml.safe_load(Path("run/config.yaml").read_text())
    assert record["model"]["_target_"].endswith(".LSTM")
    assert record["rounds"] == 1
    assert record["name"] == 'a, b: "c" \\d {x} [y] $z'
    assert record["tags"] == ["one", "two, three", "4", "null-ish"]
    assert record["client"]["optimizer"]["_target_"].endswith(".Adam")
    assert (record["client"]["optimizer"]["lr"], record["client"]["batch_size"]) == (0.002, 4)
    assert record["sampler"]["fraction"] == 0.5


def test_what_is_typed_takes_precedence_and_defaults_choose_options(fedsim, tiny):
    Path("mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: lstm\n  - _self_\n  - aggregator: fedprox\n"
        "seed: 5\nclient: {steps: 3}\n"
    )
    words = [word for word in tiny if not word.startswith("client.epochs")]
    assert (
        fedsim("run", "mine.yaml", *words, "model=rnn", "model.hidden_size=3", "seed=6", "hydra.run.dir=run").code == 0
    )
    record = Path("run/config.yaml").read_text()
    assert "fedsim.models.recurrent.SimpleRNN" in record or ".RNN" in record
    assert "seed: 6" in record
    assert "steps: 3" in record
    assert "epochs: null" in record
    assert "Prox" in record


def test_a_sweep_over_a_file(fedsim, tiny):
    Path("mine.yaml").write_text("name: x\n")
    assert fedsim("run", "-m", "mine.yaml", *tiny, "seed=1,2", "hydra.sweep.dir=sweep").code == 0
    assert Path("sweep/1/metrics.csv").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hydra: {run: {dir: /tmp}}\n", "settings of Hydra are typed"),
        ("name: ${oc.env:HOME}\n", "may not read the environment"),
        ("[1, 2]\n", "must be settings"),
        ("a: &a [*a]\n", "is a part of itself"),
        ("a: [\n", "cannot be read as YAML"),
        ("model: {_target_: os.system}\n", "os.system"),
        ("defaults: [x]\n", "must be a list of GROUP: OPTION"),
        ("lr: 0.1\n", "lr=0.1: no such key; write client.optimizer.lr=0.1"),
        ("tracker: mlflow\ntracker.tracking_uri: http://evil.example\n", "is named on the command line"),
        ("name: x${name2}\nname2: y\n", "name2"),
    ],
)
def test_files_that_are_refused(refused, text, said):
    Path("mine.yaml").write_text(text)
    assert said in refused("run", "mine.yaml")
    assert not Path("outputs").exists()


def test_the_record_of_a_run_runs_again(fedsim, tiny):
    assert fedsim("run", *tiny, "hydra.run.dir=one").code == 0
    before = Path("one/config.yaml").read_bytes()
    assert fedsim("run", "one/config.yaml", "hydra.run.dir=two").code == 0
    assert Path("two/config.yaml").read_bytes() == before
    assert Path("two/metrics.csv").read_bytes() == Path("one/metrics.csv").read_bytes()
    assert fedsim("run", "one/config.yaml", "seed=4", "model=lstm").code == 0
    (third,) = Path("outputs").glob("*/*/config.yaml")
    assert "seed: 4" in third.read_text()
    assert "LSTM" in third.read_text()
    assert fedsim("run", "one/config.yaml", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("one/config.yaml", "-m", "seed=1,2"), "-m: a sweep does not go with one/config.yaml, the record of one run"),
        (("one/config.yaml", "seed=1,2"), "a recorded run can be changed only by single values"),
        (("one/config.yaml", "one/config.yaml"), "another file does not go with"),
        (("one/config.yaml", "hydra.run.dir=one"), "already holds a run"),
        (("one/config.yaml", "lr=0.1"), "write client.optimizer.lr=0.1"),
        (("one/sweep.yaml",), "one/sweep.yaml: is not the record of a run (it says no model)"),
        (
            ("one/.hydra/config.yaml",),
            "a file of settings names options, such as model: OPTION; what a run recorded is in",
        ),
        (("one/config.yaml", "--cfg", "job"), "the record of a run is what it says"),
    ],
)
def test_records_with_words_that_do_not_go_with_them(fedsim, refused, tiny, words, said):
    assert fedsim("run", *tiny, "hydra.run.dir=one").code == 0
    Path("one/sweep.yaml").write_text("format_version: 1\njobs: {0: [seed=1]}\n")
    assert said in refused("run", *words)


def test_compare_takes_the_newest_sweep(fedsim, tiny):
    for place in ("a", "b"):
        assert fedsim("run", "-m", *tiny, "seed=1,2", f"hydra.sweep.dir=outputs/multirun/{place}").code == 0
    answer = fedsim("compare")
    assert answer.code == 0
    assert re.search(r"note: compare: the newest sweep, outputs/multirun/b\n", answer.err)
    assert shlex.split(answer.out)


def test_partition_takes_the_file_too(fedsim, tiny):
    Path("mine.yaml").write_text("partition: dirichlet\npartition.alpha: 0.3\nnum_clients: 4\n")
    answer = fedsim("partition", "mine.yaml")
    assert answer.code == 0
    assert answer.out.startswith("partition Dirichlet alpha=0.3")
