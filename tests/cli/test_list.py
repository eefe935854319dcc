"""`fedsim list GROUP=OPTION` and `fedsim list WORD...`: every key with its default and what it means."""

import importlib.resources
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedsim.config.compose import Request, check_request, list_options, normalise

CONFIGS = Path(str(importlib.resources.files("fedsim.configs")))
TARGETS = [
    f"{group}={option}"
    for group, options in list_options().items()
    for option in options
    if "_target_" in (CONFIGS / group / f"{option}.yaml").read_text()
]


@pytest.fixture
def listed(fedsim):
    """Return ``listed(*words)``, the lines that the command prints."""

    def call(*words):
        answer = fedsim("list", *words)
        assert (answer.code, answer.err) == (0, ""), answer
        return answer.out.splitlines()

    return call


def row(lines, name):
    (found,) = [line for line in lines if line.split()[:1] == [name]]
    return re.split(r"\s{2,}", found.strip())


def test_the_keys_of_an_option_and_of_the_option_that_it_chooses(listed):
    lines = listed("client=default")
    assert lines[0].startswith("client=default  ")
    assert row(lines, "client.epochs") == [
        "client.epochs",
        "2",
        "passes over the client's own samples per round; exclusive with steps",
    ]
    assert row(lines, "client.optimizer.lr") == ["client.optimizer.lr", "0.3", "learning rate"]
    heads = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert heads == ["client=default", "client/optimizer=sgd"]


@pytest.mark.parametrize("title", TARGETS)
def test_every_key_of_every_option_as_it_stands_in_its_file(listed, title):
    group, _, option = title.partition("=")
    text = (CONFIGS / group / f"{option}.yaml").read_text()
    keys = {key: value for key, value in yaml.safe_load(text).items() if key not in ("_target_", "defaults")}
    lines = listed(title)
    for key, value in keys.items():
        cells = row(lines, f"{group.replace('/', '.')}.{key}")
        assert yaml.safe_load(cells[1]) == value
        (line,) = [line for line in text.splitlines() if line.startswith(f"{key}:")]
        if "  # " in line:
            assert cells[2] == re.sub(" {2,}", " ", line.partition("  # ")[2]) or cells[2] in line
        else:
            assert len(cells) == 3, key  # a single key, or the docstring


def test_keys_can_be_typed_as_they_are_listed(listed):
    """Nested parts of parts too: with their defaults the experiment stays what it was."""
    keys = [re.split(r"\s{2,}", line.strip())[:2] for line in listed("aggregator=fedadam") if line.startswith("  ")]
    assert "aggregator.server_optimizer.tau" in dict(keys)
    given = ("aggregator=fedadam", *(f"{key}={value}" for key, value in keys if "=" not in key))
    plain, typed = (check_request(normalise(Request(words)))[0].experiment for words in (given[:1], given))
    assert plain == typed


def test_a_part_of_a_part(listed):
    lines = listed("aggregator=fedadam")
    assert "aggregator/server_optimizer/schedule=constant" in [line.split()[0] for line in lines]


def test_several_options(listed):
    together, apart = listed("model=gru", "client=default"), [*listed("model=gru"), *listed("client=default")]
    assert [line.split() for line in together] == [line.split() for line in apart]


def test_an_experiment_says_what_it_chooses_and_sets(listed):
    lines = listed("experiment=gru_regression")
    assert row(lines, "client/optimizer=adam")[1].startswith("Adam with bias correction")
    assert row(lines, "rounds") == ["rounds", "10", "round limit"]  # the meaning is in config.yaml
    assert row(lines, "client.optimizer.lr") == ["client.optimizer.lr", "0.001", "learning rate"]  # in adam.yaml
    assert row(lines, "data.task")[1] == "regression"


def test_a_group_by_either_name(listed):
    assert listed("client.optimizer") == listed("client/optimizer")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lr"], r"client\.optimizer\.lr +0\.3 +learning rate \(client/optimizer=sgd\)"),
        (["learning", "rate"], r"client\.optimizer\.lr +0\.3 +learning rate \(client/optimizer=sgd\)"),
        (["learning rate"], r"client\.lr_decay +1\.0 +factor on the learning rate .*"),
        (["LEARNING"], r"client\.lr_decay +1\.0 +factor on the learning rate .*"),
        (["clip"], r"client\.clip_norm +null +largest norm of a minibatch gradient \(client=default,full_batch\)"),
        (["gru"], r"model=gru +Gated recurrent unit .*"),
        (["rounds"], r"rounds +50 +round limit"),
        (["seed"], r"seed +0 +key of every random stream"),
        (["eval.every"], r"eval\.every +1 +rounds between evaluations .*"),
        (["client.optimizer.lr"], r"client\.optimizer\.lr +0\.3 .*"),
        (["client.optimizer.lr=0.1"], r"client\.optimizer\.lr +0\.3 .*"),
        (["sgd", "momentum"], r"client\.optimizer\.momentum +0\.0 .*"),
        (["malicious"], r"attack +what malicious clients do"),
        (["optimizer"], r"client/optimizer +the local optimizer"),
    ],
)
def test_words_are_found(listed, words, expected):
    assert [line for line in listed(*words) if re.fullmatch(expected, line)]


def test_names_come_first(listed):
    lines = listed("lr")
    assert all("lr" in line.split()[0] for line in lines[:9])
    assert lines[-1].endswith("]")  # a sentence of a docstring


def test_a_word_within_another_is_not_meant(listed):
    """ "Already" has an l and an r, and stands in the explanation of ``data.sort``."""
    assert "already" in " ".join(listed("data=csv"))
    assert not [line for line in listed("lr") if line.startswith("data.sort")]


def test_all_words_must_match(listed):
    assert not [line for line in listed("learning", "decay") if line.startswith("client.optimizer.lr ")]
    assert row(listed("learning", "decay"), "client.lr_decay")


def test_the_sentence_of_a_docstring_is_shown(listed):
    assert "neighbouring" not in (CONFIGS / "privacy" / "central_dp.yaml").read_text()
    (line,) = [line for line in listed("Poisson", "neighbouring") if line.startswith("privacy=central_dp ")]
    assert re.search(r"\[.*sampler=poisson.*\]$", line)


def test_the_same_key_of_several_options_is_one_line(listed):
    lines = [line for line in listed("blocks") if line.startswith("aggregator.blocks ")]
    several = r"\(aggregator=bulyan,centered_clipping,delta_sgd,fedadagrad and \d+ more\)$"
    assert any(re.search(several, line) for line in lines)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["lerning"],
            "lerning: found in no group, option, key or explanation (did you mean 'learning'?); fedsim list ",
        ),
        (["agregator"], "agregator: found in no group, option, key or explanation (did you mean 'aggregator'?); "),
        (["learning", "xyzzy"], "xyzzy: found in no group, option, key or explanation; fedsim list shows the groups"),
        (
            ["client.optimiser.lr"],
            "client.optimiser.lr: found in no group, option, key or explanation (did you mean 'client.optimizer.lr'?)",
        ),
        (["krum", "fraction"], "krum fraction: each of these words is found somewhere, but nowhere all of them"),
        (["client=defalt"], "client=defalt: no such option (did you mean 'default'?); available: default, full_batch"),
        (["clint=default"], "clint: found in no group, option, key or explanation (did you mean 'client'?); "),
        (["client="], "client=: no such option; available: default, full_batch"),
    ],
)
def test_what_is_not_there(refused, words, reason):
    assert refused("list", *words).startswith(reason)


MINE = """# A rule of mine
defaults:
  - inner: {inner}
_target_: my_rules.Mine
strength: 1e-3  # how strong, zzyx
bounds: [0,
  1]  # from and to
empty:
nested:
  deep: {{}}  # below
"""


def test_options_of_the_user(listed, write_config):
    """Their module is not imported: it does not even exist."""
    write_config("aggregator/combine/mine.yaml", MINE.format(inner="a"))
    folder = write_config(
        "aggregator/combine/inner/a.yaml", "# An inner part\n_target_: my_rules.A\nx: 'it''s'  # of A\n"
    )
    lines = listed("aggregator/combine=mine", "--config-dir", folder)
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["aggregator/combine=mine", "A rule of mine"],
        ["aggregator.combine.strength", "1e-3", "how strong, zzyx"],
        ["aggregator.combine.bounds", "[0, 1]", "from and to"],
        ["aggregator.combine.empty", "null"],
        ["aggregator.combine.nested.deep", "{}", "below"],
        ["aggregator/combine/inner=a", "An inner part"],
        ["aggregator.combine.inner.x", "'it''s'", "of A"],
    ]
    assert listed("zzyx", "--config-dir", folder) == [
        "aggregator.combine.strength  1e-3  how strong, zzyx (aggregator/combine=mine)"
    ]


def test_a_broken_file_of_the_user(fedsim, refused, write_config):
    write_config("model/mine.yaml", "# Mine, zzyx\n_target_: a.B\n")
    folder = write_config("model/broken.yaml", "# Broken\nx: [\n")
    assert "broken.yaml: cannot be read as YAML" in refused("list", "model=broken", "--config-dir", folder)
    answer = fedsim("list", "zzyx", "--config-dir", folder)
    assert answer.code == 0
    assert answer.out == "model=mine    Mine, zzyx\n"
    assert re.fullmatch(r"warning: .*broken\.yaml: cannot be read as YAML .*; it is left out\n", answer.err)


@pytest.mark.parametrize("text", ["- a\n", "a\n", "1: 2\n? [a, b]\n: c\n", "defaults: model\n", "_target_: [a]\n", ""])
def test_odd_files_of_the_user_end_in_no_traceback(fedsim, write_config, text):
    folder = write_config("model/odd.yaml", text)
    for words in (("model=odd",), ("lr",), ("model",), ()):
        answer = fedsim("list", *words, "--config-dir", folder)
        assert answer.code in (0, 2), (words, answer)


def test_terminals_are_not_obeyed(listed, write_config):
    folder = write_config("model/evil.yaml", '# zzyx \u202e\n_target_: a.B\nx: "\\e[2J"  # \u202e zzyx\n')
    for words in (["model=evil"], ["zzyx"], ["model"]):
        assert all(c.isprintable() for line in listed(*words, "--config-dir", folder) for c in line)
    folder = write_config("model/worse.yaml", "# zzyx \x9b31m\n_target_: a.B\n")  # no YAML
    assert [line for line in listed("model", "--config-dir", folder) if line.endswith("zzyx \\x9b31m")]


def test_a_terminal_without_unicode(process, write_config):
    folder = write_config("model/mine.yaml", "# Größe zzyx\n_target_: a.B\n")
    for words in (["zzyx"], ["model=mine"], ["model"]):
        listing = process("list", *words, "--config-dir", folder, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
        out, err = listing.communicate(timeout=60)
        assert (listing.returncode, err) == (0, "")
        assert r"Gr\xf6\xdfe" in out


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_on_a_terminal_long_lines_are_wrapped():
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": "70", "TERM": "xterm"}
    command = [sys.executable, "-m", "fedsim", "list", "client=default"]
    done = subprocess.run(command, stdout=follower, env=environment, timeout=60, check=True)
    os.close(follower)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", os.read(leader, 65536).decode()).replace("\r", "")
    os.close(leader)
    assert done.returncode == 0
    assert all(len(line.rstrip()) <= 70 for line in shown.split("\n"))
    assert " ".join(shown.split()).find("client.epochs 2 passes over the client's own") > 0
