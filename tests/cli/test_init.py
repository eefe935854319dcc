"""`fedsim init`: what it writes runs as it says, is never written over, and never half of it."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fedsim as package
from fedsim.cli import scaffold
from fedsim.config.compose import Request, check_request, normalise
from fedsim.config.documented import OWN, comment_of

ROOT = Path(package.__file__).parents[1]
LONGEST = "a_name_of_thirty_two_small_chars"
SHORT = ("rounds=1", "threads=1", "device=cpu", "console=none", "engine.kernels=torch", "model.hidden_size=2")


CHANGES = {
    "/model: gru ": "/model: lstm",
    "/data: japanese_vowels": "/data: synthetic",
    "/partition: iid ": "/partition: dirichlet",
    "/sampler: uniform": "/sampler: poisson",
    "optimizer: sgd": "optimizer: adam",
    "aggregator: fedavg": "aggregator: median",
    "rounds: 50": "rounds: 7",
    "seed: 0": "seed: 7",
    "num_clients: null": "num_clients: 7",
    "device: auto": "device: cpu",
    "every: 1": "every: 7",
    "hidden_size: 64": "hidden_size: 7",
    "num_layers: 1": "num_layers: 2",
    "epochs: 2": "epochs: 7",
    "batch_size: 8": "batch_size: 7",
    "clip_norm: null": "clip_norm: 7",
    "lr: 0.3": "lr: 0.7",
    "fraction: 1.0": "fraction: 0.5",
}
"""Another value for each line of an experiment."""


@pytest.fixture(autouse=True)
def unload():
    """Forget the modules that a command has imported from the test's folder."""
    before = set(sys.modules)
    yield
    for name in [name for name in sys.modules if name not in before and not name.startswith("fedsim")]:
        file = getattr(sys.modules[name], "__file__", None)
        if file and "pytest-of" in file:
            del sys.modules[name]


@pytest.fixture
def init(fedsim):
    """Return ``init(*arguments)``, the commands that it prints."""

    def call(*arguments):
        answer = fedsim("init", *arguments)
        assert (answer.code, answer.err) == (0, ""), answer
        return answer.out.splitlines()[1:]

    return call


def files():
    return sorted(path.as_posix() for path in Path().rglob("*") if path.is_file())


def test_an_experiment_runs_as_it_says(fedsim, init):
    (command,) = init()
    assert files() == ["configs/experiment/mine.yaml"]
    assert command == "fedsim run experiment=mine --config-dir configs"
    assert fedsim(*shlex.split(command)[1:], *SHORT, "hydra.run.dir=run").code == 0
    assert Path("run/metrics.csv").is_file()


def test_an_experiment_is_the_default_until_it_is_changed(init):
    init()
    mine, default = (
        check_request(normalise(Request(words, config_dir="configs")))[0].experiment
        for words in (("experiment=mine",), ())
    )
    assert mine == default


def test_what_is_said_of_keys_and_options_comes_from_their_files(init):
    init()
    text = Path("configs/experiment/mine.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    for name, line in {
        "client/default": "epochs: 2        # passes over the client's own samples per round; exclusive with steps",
        "model/gru": "hidden_size: 64  # units per layer; exclusive with parameters",
        "config": "rounds: 50         # round limit",
    }.items():
        assert re.search(re.sub(" +", " +", re.escape(line).replace(r"\ ", " ")), text), line
        key, _, rest = line.partition(":")
        assert re.search(rf"^{key}:{rest.partition('#')[0].rstrip()} +# {re.escape(rest.partition('# ')[2])}$",
                         (OWN / f"{name}.yaml").read_text(), re.M)  # fmt: skip
    adam = yaml.safe_load((OWN / "client/optimizer/adam.yaml").read_text())
    assert f"that of adam is {adam['lr']}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_each_value_of_an_experiment_can_be_changed_in_it(init):
    """Every line is one that fedsim reads: with other values the run is another."""
    init()
    file = Path("configs/experiment/mine.yaml")
    text = file.read_text()
    before = check_request(normalise(Request(("experiment=mine",), config_dir="configs")))[0].experiment
    for old, new in CHANGES.items():
        assert text.count(old) == 1, old
        changed = text.replace(old, new)
        if "poisson" in new:
            changed = changed.replace("fraction: 1.0", "probability: 0.5")
        file.write_text(changed)
        after = check_request(normalise(Request(("experiment=mine",), config_dir="configs")))[0].experiment
        assert after != before, old


def test_an_experiment_elsewhere(fedsim, init):
    (command,) = init("my folder/experiment/trial.yaml")
    assert command == "fedsim run experiment=trial --config-dir 'my folder'"
    assert fedsim(*shlex.split(command)[1:], *SHORT, "--dry-run").code == 0
    assert init("--config-dir", "other") == ["fedsim run experiment=mine --config-dir other"]
    assert (
        comment_of(Path("other/experiment/mine.yaml").read_text())
        in fedsim("list", "experiment", "--config-dir", "other").out
    )


@pytest.mark.parametrize(
    ("kind", "name", "key", "folder"),
    [
        ("rule", "same_length", "aggregator.combine.strength=2", "configs"),
        ("data", "sines", "data.clients=0", "configs"),
        ("rule", LONGEST, "aggregator.combine.strength=-1", 'my "odd" folder'),
        ("data", LONGEST, "data.noise=-1", "a/b"),
    ],
)
def test_a_component_runs_as_it_says_and_passes_its_test(fedsim, init, kind, name, key, folder):
    run, test = init(f"--{kind}", name, *(("--config-dir", folder) if folder != "configs" else ()))
    group = {"rule": "aggregator/combine", "data": "data"}[kind]
    assert files() == sorted([f"{name}.py", f"test_{name}.py", f"{folder}/{group}/{name}.yaml"])
    assert run.startswith("fedsim run ")
    answer = fedsim(*shlex.split(run)[1:], *SHORT, "hydra.run.dir=run")
    assert answer.code == 0, answer
    assert f"_target_: {name}." in Path("run/config.yaml").read_text()
    answer = fedsim(*shlex.split(run)[1:], key)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {key.partition('=')[0]}=")
    assert test == f"python -m pytest test_{name}.py"
    words = [sys.executable, *shlex.split(test)[1:], "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b[45] passed", done.stdout)


@pytest.mark.parametrize(("kind", "name", "change"), [
    ("rule", "mine", ("strength: 1.0", "strength: 0.5")),
    ("data", "mine", ("noise: 0.1 ", "noise: 0.2 ")),
    ("rule", "mine", ("lengths.median()", "lengths.mean()")),
    ("data", "mine", ("wave[:, -1] > wave", "wave[:, -1] < wave")),
])  # fmt: skip
def test_its_test_can_fail(init, kind, name, change):
    init(f"--{kind}", name)
    (file,) = [path for path in map(Path, files()) if change[0] in path.read_text()]
    file.write_text(file.read_text().replace(*change))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{name}.py"]
    assert subprocess.run(words, capture_output=True, timeout=120, check=False).returncode == 1


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
@pytest.mark.parametrize("name", ["mine", LONGEST])
@pytest.mark.parametrize("how", [("--isolated",), ("--config", str(ROOT / "pyproject.toml"))], ids=["default", "ours"])
def test_ruff_has_nothing_to_say(init, name, how):
    init("--rule", name)
    init("--data", f"{name[:-2]}_d")
    for words in (("format", "--check"), ("check", "--extend-select", "I", "--ignore", "INP")):
        command = [sys.executable, "-m", "ruff", *words, *how, "--no-cache", "."]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_page_shows_what_is_written(init):
    """From paper to two files shows the rule, its YAML and its test."""
    page = (ROOT / "docs" / "two-files.md").read_text()
    assert "fedsim init --rule same_length\n" in page
    commands = init("--rule", "same_length")
    for file in files():
        assert re.search(rf"^`{file}`:\n\n```\w+\n{re.escape(Path(file).read_text())}```$", page, re.M), file
    assert commands[1] in page.splitlines()


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_no_file_of_a_page_imports_itself(page):
    """A check that is saved under the name of the module it imports has nothing to check."""
    for name, text in re.findall(r"^`([\w/]+)\.py`[^\n]*:\n\n```python\n(.*?)```", page.read_text(), re.M | re.S):
        assert not re.search(rf"^(from|import) {Path(name).name}\b", text, re.M), (page, name)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "there"),
    [
        ((), "configs/experiment/mine.yaml"),
        (("--rule", "mine"), "mine.py"),
        (("--rule", "mine"), "test_mine.py"),
        (("--rule", "mine"), "configs/aggregator/combine/mine.yaml"),
        (("--data", "mine"), "configs/data/mine.yaml"),
    ],
)
def test_nothing_is_written_over(fedsim, refused, arguments, there):
    Path(there).parent.mkdir(parents=True, exist_ok=True)
    Path(there).write_text("mine")
    assert refused("init", *arguments).startswith(f"{there}: exists already")
    assert (files(), Path(there).read_text()) == ([there], "mine")
    Path(there).unlink()
    Path(there).symlink_to("nowhere")  # not through a link either
    assert fedsim("init", *arguments).code == 2
    assert not Path(there).exists()


@pytest.mark.parametrize("made", [0, 1, 2])
def test_nothing_is_half_written(refused, monkeypatch, made):
    """The disk is full at the first, second or third file."""
    opened = Path.open
    count = iter(range(10))

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def write(self, text):
            self.file.write(text[:10])
            raise OSError(28, "No space left on device")

        def __exit__(self, *error):
            self.file.close()

    def full(self, mode="r", **options):
        file = opened(self, mode, **options)
        return Full(file) if mode == "x" and next(count) == made else file

    monkeypatch.setattr(Path, "open", full)
    names = ["mine.py", "test_mine.py", "configs/aggregator/combine/mine.yaml"]
    answer = refused("init", "--rule", "mine")
    assert answer == f"cannot write {names[made]}: No space left on device"
    monkeypatch.undo()


def test_a_folder_that_cannot_be_made(refused):
    Path("configs").write_text("a file")
    assert refused("init", "--rule", "mine") == "--config-dir configs: no such folder"
    assert refused("init", "configs/x/experiment/mine.yaml").startswith("cannot write configs/x/experiment/mine.yaml: ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--rule", "krum"), "--rule krum: aggregator/combine=krum is one of fedsim's own; choose another name"),
        (("--data", "csv"), "--data csv: data=csv is one of fedsim's own; choose another name"),
        (("--rule", "Mine"), "--rule Mine: must be at most 32 small letters, digits and underscores, such as my_rule"),
        (("--data", "my-data"), "--data my-data: must be at most 32 small "),
        (("--rule", "../mine"), "--rule ../mine: must be at most 32 "),
        (("--rule", "größe"), "--rule größe: must be at most 32 "),
        (("--rule", "x" * 33), f"--rule {'x' * 33}: must be at most 32 "),
        (("--rule", "1st"), "--rule 1st: must be at most 32 "),
        (("--rule", ""), "--rule : must be at most 32 "),
        (("--rule", "a_b"), "--rule a_b: its class AB would count as the option ab; choose another name"),
        (("--rule", "no_rule"), "--rule no_rule: its class NoRule would count as the option none; choose another name"),
        (("--rule", "class"), "--rule class: is a word of Python's; choose another name"),
        (("--rule", "random"), "--rule random: there is a module random already; choose another name"),
        (("--rule", "numpy"), "--rule numpy: there is a module numpy already ("),
        (("--rule", "report"), "--rule report: Report means something else in the files; choose another name"),
        (("--data", "dataset"), "--data dataset: Dataset means something else in the files; choose another name"),
        (("--rule", "a", "--data", "b"), "--rule a --data b: one at a time"),
        (("--rule", "mine", "configs/experiment/mine.yaml"), "configs/experiment/mine.yaml: is for an "),
        (("mine.yaml",), "mine.yaml: must be FOLDER/experiment/NAME.yaml, such as configs/experiment/mine.yaml"),
        (("configs/experiment/mine.yml",), "configs/experiment/mine.yml: must be FOLDER/experiment/NAME.yaml"),
        (("configs/experiment/my-own.yaml",), "configs/experiment/my-own.yaml: my-own must be letters, digits and "),
        (("configs/experiment/gru_regression.yaml",), "configs/experiment/gru_regression.yaml: experi"),
        (("a/experiment/b.yaml", "--config-dir", "a"), "--config-dir a: has an effect only without FILE"),
        (("--config-dir", str(OWN)), f"{OWN}: holds fedsim's own configs; name another folder"),
        ((f"{OWN}/x/experiment/b.yaml",), f"{OWN}/x: holds fedsim's own configs; name another folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_written(refused, arguments, reason):
    assert refused("init", *arguments).startswith(reason)


def test_a_folder_that_a_run_would_refuse(refused):
    Path("configs/model").mkdir(parents=True)
    Path("configs/model/gru.yaml").write_text("_target_: a.B\n")
    assert refused("init", "--rule", "mine").startswith(
        "--config-dir configs: model/gru.yaml has the name of one of fed"
    )


def test_without_pytest_it_says_how_to_install_it(init, monkeypatch):
    monkeypatch.setattr(scaffold.importlib.util, "find_spec", lambda name: None)
    assert init("--rule", "mine")[1].startswith("python -m pip install 'pytest>=")
