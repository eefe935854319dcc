"""Every command in README.md and docs/ is run, as printed but shortened, together with the blocks of Python.

A page is followed from top to bottom in one folder: the files that it announces are written, and later commands see
the results of earlier ones. New pages and commands are found automatically.
"""

import re
import runpy
import shlex
import sys
from pathlib import Path

import h5py
import pytest

import fedsim as package
from fedsim.config import compose as config
from fedsim.config.from_file import with_files

ROOT = Path(package.__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
FENCE = re.compile(r"(?:^`(?P<file>[\w/.]+)`[^\n]*:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S | re.M)

SHORT = ("rounds=1", "threads=1", "device=cpu", "console=none", "engine.kernels=torch", "model.hidden_size=2")
"""Overrides added to `fedsim run`."""

AS_IT_STANDS = ("docs/reproducibility.md",)
"""Pages whose runs are compared with each other; these are short already."""

SMALL = {
    "experiment=keyboard_shakespeare": ("data.path=play.txt",),
    "experiment=keyboard_words": ("data.path=play.txt",),
    "data=stackoverflow": ("sampler.cohort_size=2", "eval.clients=2"),
    "model.recurrent_projection=16": ("model.hidden_size=17",),
    "schedule=flhc": ("rounds=2", "schedule.after=1"),
}
"""Overrides added to commands with a certain word: nothing is downloaded, no client is asked in vain, a projection
has units to spare, and clients are clustered before the end."""

FEWER = {
    "seed=101,102": "seed=101",
    "seed=1,2,3,4,5": "seed=1",
    "client.optimizer.lr=0.1,0.3": "client.optimizer.lr=0.3",
}
"""Words that are replaced in the sweeps of the study, which has seventy-five runs."""

RESUMED = {"rounds=100": "rounds=2", "rounds=200": "rounds=3", "rounds=60": "rounds=2", "20": "2"}
"""Words that are replaced in `fedsim resume`, because the runs were shortened."""

SWEPT = "run -m aggregator=fedavg,fedprox client.optimizer.lr=0.1,0.3 client.batch_size=4,8"
BEFORE = {"docs/commands.md": SWEPT}
"""A sweep that a page's pictures and tables need."""

INSTALLS = "installs into the environment; .ci/run does what the README says"
LAUNCHES = "needs an extra; the slow test in tests/cli/test_sweeps.py tries each in a separate environment"
TESTS = "tests/cli/test_init.py runs it"
TRACKS = "needs an extra; the slow test in tests/cli/test_trackers.py tries each in a separate environment"
SWEEPS = [
    line
    for block in FENCE.finditer((ROOT / "docs/sweeps.md").read_text())
    for line in block["text"].splitlines()
    if re.search(r"hydra/launcher=|hydra/sweeper=|constraints", line)
]
SEVERAL = "needs several processes; test_torchrun.py runs torchrun, and checks what the page says after it"
NOT_RUN = {
    "python -m pip install -c constraints.txt -e '.[plot]' && fedsim run model=gru aggregator=fedavg": INSTALLS,
    "docker build -t fedsim .": INSTALLS,
    'docker run --rm -v "$PWD/outputs:/home/user/outputs" fedsim run model=gru aggregator=fedavg': INSTALLS,
    "python -m pip install -c constraints.txt -e '.[test]' && python -m pytest -n auto": INSTALLS,
    "python -m pip install -c constraints.txt -e .": INSTALLS,
    "python -m pip install -c constraints.txt -e '.[plot]'": INSTALLS,
    "python -m pip install -c constraints.txt -e '.[tensorboard]'": INSTALLS,
    "python -m pytest test_same_length.py": TESTS,
    "fedsim run tracker=tensorboard": TRACKS,
    "fedsim run tracker=mlflow tracker.experiment_name=speech": TRACKS,
    "fedsim run tracker=wandb": TRACKS,
    "fedsim resume RUN_DIR rounds=100 tracker=tensorboard": TRACKS,
    **dict.fromkeys(SWEEPS, LAUNCHES),
    "torchrun --standalone --nproc-per-node=2 -m fedsim run num_clients=20 device=cpu": SEVERAL,
    "torchrun --standalone --nproc-per-node=4 -m fedsim resume RUN_DIR": SEVERAL,
    "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=node1:29500 -m fedsim run "
    "hydra.run.dir=outputs/two-nodes": SEVERAL,
}
NOT_FOLLOWED = {"docs/take-the-model-home.md": "test_docs.py follows it, with ONNX and without"}


def blocks(page):
    """The fenced blocks of a page, as ``(name of the file announced before it, or None, language, text)``."""
    found = FENCE.finditer((ROOT / page).read_text())
    return [(match["file"] if match["kind"] != "bash" else None, match["kind"], match["text"]) for match in found]


def commands(page):
    """The command lines of a page."""
    lines = [line for _, kind, text in blocks(page) if kind == "bash" for line in text.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for what commands convert, so that nothing of these files stays on the machine."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def files(elsewhere, monkeypatch, cache):
    """The files that commands name, with a few samples each; modules that pages announce are unloaded again."""
    monkeypatch.syspath_prepend(elsewhere)
    modules = {Path(file).stem for page in PAGES for file, _, _ in blocks(page) if file and file.endswith(".py")}
    for name in modules:
        sys.modules.pop(name, None)
    roles = "\n\n".join(f"Role {'abcdefghijkl'[k % 12]}:\nWho is there?" for k in range(60))
    Path("play.txt").write_text(roles)
    pressure = "".join(f"{who},{time},{who + time % 24}\n" for who in (1, 2, 3) for time in range(300))
    Path("pressure.csv").write_text(f"subject,time,pressure\n{pressure}")
    Path("CMAPSS").mkdir()
    for part in ("train", "test"):
        rows = ((engine, cycle, *range(23), cycle) for engine in (1, 2, 3) for cycle in range(1, 121))
        Path(f"CMAPSS/{part}_FD001.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    Path("CMAPSS/RUL_FD001.txt").write_text("5\n50\n200\n")
    write_stackoverflow(Path("stackoverflow"))
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(cache))
    yield
    for name in modules:
        sys.modules.pop(name, None)


def write_stackoverflow(folder):
    """Three users with two sentences each, and ten thousand words with their counts."""
    folder.mkdir()
    for part in ("train", "test"):
        with h5py.File(folder / f"stackoverflow_{part}.h5", "w") as file:
            for user in ("1", "2", "3"):
                file[f"examples/{user}/tokens"] = [b"w1 w2 .", b"w3 who ?"]
    (folder / "stackoverflow.word_count").write_text("".join(f"w{k}\t{10_001 - k}\n" for k in range(1, 10_001)))


def write(file, text):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)


def shortened(words):
    """The shortened form of a command."""
    small = [extra for word, extras in SMALL.items() if word in words for extra in extras]
    if words[0] == "run":  # two values of a sweep are enough
        few = [re.sub(r"^([\w./]+=[\w.]+,[\w.]+),[\w.,]+$", r"\1", FEWER.get(word, word)) for word in words]
        sized = any(word.startswith("model.parameters=") for word in words)
        short = [extra for extra in SHORT if not (sized and extra.startswith("model.hidden_size="))]
        return [*few, *short, *small]
    if words[0] == "resume":
        return [RESUMED.get(word, word) for word in words]
    return [*words, *small]


def prepare(page, fedsim):
    """Make the run and the sweep that a page assumes to exist."""
    text = "\n".join(commands(page))
    if "RUN_DIR" in text:
        assert fedsim("run", *SHORT, "checkpoint.every=1", "hydra.run.dir=RUN_DIR").code == 0
    if page in BEFORE:
        assert fedsim(*BEFORE[page].split(), *SHORT).code == 0
    for line in dict.fromkeys(commands(page)):
        if "--resume SWEEP_DIR" in line:
            words = shlex.split(line.replace("--resume SWEEP_DIR", "hydra.sweep.dir=SWEEP_DIR"), comments=True)
            assert fedsim(*shortened(words[1:])).code == 0


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_FOLLOWED])
def test_a_page_followed_from_top_to_bottom(page, fedsim, files):
    prepare(page, fedsim)
    here = {}
    for file, kind, text in blocks(page):
        if file:
            write(file, text)
        elif kind == "python":
            exec(compile(text, page, "exec"), here)  # noqa: S102  # it is ours
        elif kind == "bash":
            for line in text.splitlines():
                if line in NOT_RUN:
                    continue
                name, *words = shlex.split(line, comments=True)
                if name == "python":  # a script that the page shows
                    runpy.run_path(words[0])
                    continue
                assert name == "fedsim", line
                answer = fedsim(*(words if page in AS_IT_STANDS else shortened(words)))
                assert answer.code == 0, (line, answer.err)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_valid_as_printed(page, fedsim, files):
    """Every option, key and value is valid without the additions above."""
    for line in commands(page):
        if line.startswith("fedsim init"):  # writes files that later commands need
            assert fedsim(*shlex.split(line, comments=True)[1:]).code == 0
    for file, _, text in blocks(page):
        if file:
            write(file, text)
    for line in commands(page):
        if line.startswith("python ") and line not in NOT_RUN:
            runpy.run_path(line.split()[1])
    for line in commands(page):
        words = [] if line in NOT_RUN else shlex.split(line, comments=True)[1:]
        if words[:1] not in (["run"], ["partition"]) or "--resume" in words or "init_from=RUN_DIR" in words:
            continue
        overrides, folder, modules, multirun = [], None, [], False
        rest = iter(words[1:])
        for word in rest:
            if word == "--config-dir":
                folder = next(rest)
            elif word == "--allow-module":
                modules.append(next(rest))
            elif word in ("--plot", "--csv"):
                next(rest)
            elif word == "-m":
                multirun = True
            elif word != "--dry-run":
                overrides.append(word)
        overrides = [re.sub(r"^seed=(\d+),.*", r"seed=\1", word) for word in overrides]  # the same but for the seed
        request = config.Request(tuple(overrides), multirun, folder, tuple(modules))
        assert config.check_request(config.normalise(with_files(request))), line


def test_every_exception_is_still_needed():
    there = {line for page in PAGES for line in commands(page)}
    assert there >= set(NOT_RUN)
    assert set(NOT_FOLLOWED) < set(PAGES)
    assert len(there) > 50
