"""Numbers beyond reason in any key: a plan, a run or one line, never more memory or time than there is.

The commands run in a process of their own, whose memory is limited, as a system would limit it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SYNTHETIC = (
    *("data=synthetic", "data.clients=8", "data.samples_per_client=12", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=natural"),
)
REST = (
    *("model.hidden_size=2", "client.epochs=1", "rounds=2", "engine.kernels=torch", "device=cpu", "threads=1"),
    *("console=plain", "tracker=none"),
)
NEEDED = {
    "aggregator=trimmed_mean": ("aggregator.combine.beta=0.3",),
    "aggregator/server_optimizer/schedule=step": ("aggregator.server_optimizer.schedule.every=1",),
    "attack=alie": ("attack.z=1",),
    "audit=inversion": ("client.epochs=null", "client.steps=1", "client.batch_size=1", "sampler.fraction=0.2"),
    "partition=length": ("data.min_length=1",),
    "privacy=central_dp": ("aggregator/combine=mean",),
    "privacy=central_dp_adaptive": ("aggregator/combine=mean", "privacy.noise_multiplier=1", "privacy.count_noise=2"),
    "privacy=dp_ftrl": ("aggregator/combine=mean", "sampler=min_separation"),
    "privacy=local_dp": ("aggregator/combine=mean",),
    "privacy=matrix_factorisation": ("aggregator/combine=mean", "sampler=min_separation"),
    "schedule=fedasync": ("system=devices", "sampler.fraction=0.5"),
    "schedule=fedbuff": ("system=devices", "schedule.buffer_size=2", "sampler.fraction=0.5"),
    "schedule=dpsgd": ("aggregator=mean",),
    "partition=labels_per_client": ("num_clients=4",),
    "partition=shards": ("num_clients=4",),
}
"""What an option needs beside it on these data."""
VALUES = (
    *("0", "-1", "1", "2147483647", "1000000", "1" + "0" * 400, "1e-320", "1e308", "1e39", "nan", "inf", "-0.0"),
    *("0.9999999999999999", "1e400", "[2147483647]", "[-1]", "[nan]"),
)
LONG = ("rounds", "epochs", "steps", "clients", "samples_per_client", "path", "init_from")
"""Keys whose large values are no mistake but take their time, and those that are no numbers."""

DRIVER = """
import contextlib, io, json, resource, signal, sys, traceback

resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
import gc
from fedsim.cli import main as cli


def over(number, frame):
    raise BaseException("took more than 60 seconds")


signal.signal(signal.SIGALRM, over)
for words in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), None
    sys.argv = ["fedsim", *words]
    signal.alarm(60)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
    signal.alarm(0)
    gc.unfreeze()
    print(json.dumps([code, out.getvalue()[-500:], err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def limited():
    """Return ``limited(commands)``: code, output and errors of each, one after another in a process with 4 GiB."""

    def call(commands):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER], input=json.dumps(commands), capture_output=True, text=True, timeout=1800
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(commands), (commands[len(answers)], done.returncode, done.stderr[-2000:])
        return list(zip(commands, answers, strict=True))

    return call


def verdict(words, answer):
    code, _, err = answer
    lines = err.splitlines()
    assert "Traceback" not in err, (words, err)
    assert code in (0, 2, 3), (words, answer)
    assert all(len(line) < 2100 for line in lines), (words, answer)
    if code == 2:
        assert len(lines) == 1, (words, answer)
        assert lines[0].startswith("error: "), (words, answer)


REFUSED = {
    "model.hidden_size=2000000000": "makes a model of 12,000,000,034,000,000,005 parameters",
    "model.hidden_size=14000": "training would take about 17.5 GiB (588,238,005 parameters) and cpu has 4.0 GiB",
    "model.num_layers=1000000000": "model.num_layers=1000000000: must be at least 1 and at most 1000",
    "client.batch_size=1000000000000000000": "must be at most 2147483647",
    "data.clients=1000000000000": "data.clients=1000000000000: must be at most 2147483647",
    "data.clients=2000000000": "data.clients=2000000000: 28,000,000,000 sequences of 3 steps of 2 features would take",
    "data.length=1000000000": "data.length=1000000000: 112 sequences of 1,000,000,000 steps of 2 features would take",
    "data.features=1000000": "data.features=1000000: 112 sequences of 3 steps of 1,000,000 features would take",
    f"rounds=1{'0' * 400}": "must be at most 2147483647",
    f"seed=1{'0' * 30}": "must be at most 9223372036854775807",
    "client.optimizer.lr=1e400": "client.optimizer.lr=inf: must be greater than 0 and finite",
    "client.optimizer.lr=-0.0": "client.optimizer.lr=-0.0: must be greater than 0",
    f"sampler.cohort_size=1{'0' * 20}": "must be at most 2147483647",
    "threads=1000000000": "threads=1000000000: must be at least 1 and at most 1024",
    f"init_from=1{'0' * 400}": "File name too long",
    "partition=dirichlet partition.alpha=1e308": "partition.alpha=1e+308: must be at least 0 and at most 1e+06",
    "aggregator=geometric_median aggregator.combine.iterations=2000000000": "must be at least 1 and at most 100000",
}


def test_what_cannot_be_is_refused(limited):
    for words, (code, out, err) in limited([["run", *SYNTHETIC, *REST, *words.split()] for words in REFUSED]):
        given = " ".join(words[len(SYNTHETIC) + len(REST) + 1 :])
        assert (code, out, err.count("\n")) == (2, "", 1), (given, err)
        assert REFUSED[given] in err, (given, err)


def test_a_text_in_windows_longer_than_memory(limited, elsewhere):
    (elsewhere / "play.txt").write_text(
        "ANNA:\nthe sea is wide and the night is long, so row.\n\nBORIS:\na hat, a hat.\n"
    )
    words = ["data=text", f"data.path={elsewhere}/play.txt", "partition=natural", "data.sequence_length=2147483647"]
    ((_, (code, out, err)),) = limited([["run", *words, *REST]])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "data.sequence_length=2147483647: 2 windows of 2,147,483,647 characters would take" in err


def test_lines_of_a_table_that_there_are_not(limited, elsewhere):
    (elsewhere / "t.csv").write_text("y\n1\n2\n")
    words = ["data=csv", f"data.path={elsewhere}/t.csv", "data.target_column=y", "data.skip_rows=2147483647"]
    ((_, (code, out, err)),) = limited([["run", *words, *REST]])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has 3 lines, so data.skip_rows cannot skip line 4" in err


def test_a_clipping_bound_beyond_numbers(limited, elsewhere):
    words = [*SYNTHETIC, *REST, "privacy=central_dp_adaptive", *NEEDED["privacy=central_dp_adaptive"]]
    pytest.importorskip("dp_accounting")
    ((_, (code, _, err)),) = limited([["run", *words, "privacy.clip_lr=1e9", f"hydra.run.dir={elsewhere}/run"]])
    assert (code, err.count("\n")) == (3, 1)
    assert "the clipping bound became" in err


CONFIGS = Path(__file__).parents[2] / "configs"


def absurd():
    """Every key of every option that may be a number or a list, with every value."""
    commands = []
    for file in sorted(CONFIGS.rglob("*.yaml")):
        group = file.parent.relative_to(CONFIGS).as_posix()
        if group == "experiment" or file.stem in ("cmapss", "har", "leaf", "shakespeare", "ucr", "csv", "text"):
            continue  # these data are tried elsewhere
        choice = f"{group}={file.stem}"
        chosen = [] if group == "." else [*NEEDED.get(choice, ()), choice]
        for name, value in yaml.safe_load(file.read_text()).items():
            key = name if group == "." else f"{group.replace('/', '.')}.{name}"
            if isinstance(value, str | dict | bool) or name in ("defaults", "hydra") or key in ("tags", "name"):
                continue
            for number in VALUES:
                if name not in LONG or len(number) < 3:
                    commands.append(_joined(*SYNTHETIC, *REST, *chosen, f"{key}={number}"))
    return commands


def _joined(*words):
    """The words of a command, the last one of each key."""
    last = {word.partition("=")[0]: word for word in words}
    return ["run", *last.values()]


def test_some_keys_with_absurd_values(limited, elsewhere):
    commands = absurd()
    assert len(commands) > 2000
    runs = [[*words, f"hydra.run.dir={elsewhere}/{number}"] for number, words in enumerate(commands[::97])]
    for words, answer in limited(runs):
        verdict(words, answer)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(8))
def test_every_key_with_absurd_values(limited, elsewhere, share):
    runs = [[*words, f"hydra.run.dir={elsewhere}/{number}"] for number, words in enumerate(absurd()[share::8])]
    for words, answer in limited(runs):
        verdict(words, answer)
