"""A config is data: no override and no file in --config-dir runs code or reaches other files.

In all these tests the module `evil` can be imported, and leaves a file behind if it is.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedsim as package
from fedsim import build
from fedsim.config import compose as config
from fedsim.config import launch as launching
from fedsim.errors import UserError
from fedsim.models.recurrent import RecurrentModel

EVIL = """
import pathlib, dataclasses, os
from subprocess import Popen
from fedsim.models.recurrent import GRU
from fedsim.server.optimizers import SGD
pathlib.Path({trace!r}).write_text("imported")

@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(GRU):
    extra: int = 3

class Callback:
    pass

def handler(*args, **kwargs):
    import logging
    return logging.NullHandler()
"""


@pytest.fixture
def trace(elsewhere, tmp_path, monkeypatch):
    """The file that importing `evil` would create; `evil` is in the current folder."""
    file = tmp_path / "trace"
    for name in ("evil", "evil_twin", "fedsim_evil"):
        (elsewhere / f"{name}.py").write_text(EVIL.format(trace=str(file)))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(elsewhere))
    yield file
    for name in ("evil", "evil_twin", "fedsim_evil"):
        sys.modules.pop(name, None)


OVERRIDES = (
    "hydra/launcher=basic",
    "hydra/launcher=joblib",
    "hydra/sweeper=basic",
    "hydra/callbacks=evil",
    "hydra/job_logging=none",
    "hydra/hydra_logging=colorlog",
    "+hydra/env=default",
    "hydra.launcher._target_=evil.Callback",
    "hydra.sweeper._target_=evil.Callback",
    "+hydra.callbacks.x._target_=evil.Callback",
    "++hydra.callbacks={x:{_target_:evil.Callback}}",
    "hydra.job_logging.handlers.file.class=evil.handler",
    "hydra.searchpath=[pkg://evil]",
    "hydra.searchpath=[file:///tmp]",
    "+hydra.searchpath=[pkg://evil]",
    "hydra={searchpath:[pkg://evil]}",
    "++hydra={callbacks:{x:{_target_:evil.Callback}}}",
    "hydra.job.chdir=true",
    "+hydra.job.env_set.PATH=/tmp",
    "hydra.job.env_set={PATH:/tmp}",
    "hydra.job.env_copy=[HOME]",
    "hydra.job.config_name=evil",
    "hydra.job.name=evil",
    "hydra.mode=MULTIRUN",
    "hydra.mode=RUN",
    "++hydra.mode=MULTIRUN",
    "hydra.verbose=true",
    "hydra.output_subdir=null",
    "hydra.runtime.output_dir=/tmp",
    "hydra.overrides.hydra=[]",
    "~hydra.run",
    "~hydra.run.dir",
    "~hydra",
    "hydra=null",
)


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides_of_hydra_itself(refused, trace, override):
    assert "hydra" in refused("run", override)
    assert not trace.exists()


@pytest.mark.parametrize("argument", ["--experimental-rerun=x", "--multirun", "-m", "--config-path=/tmp", "-cd=/"])
def test_options_of_hydra_behind_two_dashes(refused, argument):
    assert "cannot read" in refused("run", "--", argument)


@pytest.mark.parametrize("option", ["--experimental-rerun=x", "--config-path=x", "--config-name=x", "--info", "-p=x"])
def test_options_of_hydra(refused, option):
    assert option.split("=")[0] in refused("run", option)


HYDRA = {
    "callbacks": "callbacks: {x: {_target_: evil.Callback}}",
    "launcher": "launcher: {_target_: evil.Callback}",
    "sweeper": "sweeper: {_target_: evil.Callback}",
    "handler": "job_logging: {handlers: {file: {(): evil.handler}}}",
    "handler class": "job_logging: {handlers: {file: {class: evil.handler}}}",
    "formatter": "job_logging: {formatters: {simple: {(): evil.handler}}}",
    "hydra logging": "hydra_logging: {handlers: {console: {(): evil.handler}}}",
    "environment": "job: {env_set: {PYTHONPATH: /tmp}}",
    "working folder": "job: {chdir: true}",
    "search path": "searchpath: ['pkg://evil']",
    "mode": "mode: MULTIRUN",
    "overrides of sweep jobs": "overrides: {hydra: ['hydra.callbacks.x._target_=evil.Callback']}",
    "overrides by interpolation": "overrides: {hydra: '${tags}'}",
    "interpolated": "launcher: {_target_: '${name}'}",
}


def check_files(refused, folder, *arguments):
    line = refused("run", *arguments, "--config-dir", folder, "experiment=trial", "name=evil.Callback")
    assert "hydra" in line or "HydraConf" in line


@pytest.mark.parametrize("body", HYDRA)
def test_files_about_hydra_itself(refused, write_config, trace, body):
    check_files(refused, write_config("experiment/trial.yaml", f"# @package _global_\nhydra:\n  {HYDRA[body]}\n"))
    assert not trace.exists()


@pytest.mark.parametrize("body", ["launcher", "handler", "overrides of sweep jobs"])
def test_files_about_hydra_itself_in_a_sweep_and_in_its_package(refused, write_config, trace, body):
    folder = write_config("experiment/trial.yaml", f"# @package hydra\n{HYDRA[body]}\n")
    check_files(refused, folder)
    check_files(refused, folder, "-m", "seed=1,2")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("override", "words"), [("+model@hydra.launcher=lstm", "BasicLauncherConf"), ("+model@hydra=lstm", "HydraConf")]
)
def test_an_option_in_the_package_of_hydra(refused, override, words):
    assert words in refused("run", override)


@pytest.mark.parametrize(
    "params",
    [
        "hydra.searchpath: '[pkg://evil]'",
        "hydra.launcher._target_: evil.Callback",
        "hydra/launcher: joblib",
        "+hydra.callbacks.x._target_: evil.Callback",
        "model._target_: evil.Model",
        "'--experimental-rerun': x",
        "'': x",
    ],
)
def test_overrides_that_a_file_adds_to_a_sweep(refused, write_config, trace, params):
    folder = write_config(
        "experiment/trial.yaml", f"# @package _global_\nhydra:\n  sweeper:\n    params:\n      {params}\n"
    )
    assert refused("run", "-m", "--config-dir", folder, "experiment=trial", "seed=1,2")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hydra/launcher/basic.yaml", "_target_: evil.Callback\n"),  # Hydra's own comes after the user's folder
        ("hydra/sweeper/basic.yaml", "_target_: evil.Callback\n"),
        ("hydra/config.yaml", "launcher: {_target_: evil.Callback}\n"),
    ],
)
def test_files_that_replace_hydras_own(refused, write_config, trace, name, text):
    folder = write_config(name, text)
    line = refused("run", "-m", "seed=1,2", "--config-dir", folder)
    assert "hydra" in line
    assert not trace.exists()


def test_an_option_that_chooses_options_of_hydra(refused, write_config, trace):
    write_config("hydra/callbacks/evil.yaml", "x: {_target_: evil.Callback}\n")
    text = "# @package _global_\ndefaults:\n  - override /hydra/callbacks: evil\n"
    folder = write_config("experiment/trial.yaml", text)
    assert "hydra.callbacks" in refused("run", "--config-dir", folder, "experiment=trial")
    assert not trace.exists()


def test_an_option_that_only_the_sweep_as_a_whole_would_use(refused, write_config, trace):
    write_config("model/bad.yaml", "# @package _global_\nhydra: {callbacks: {x: {_target_: evil.Callback}}}\n")
    folder = write_config("experiment/trial.yaml", "# @package _global_\ndefaults:\n  - override /model: bad\n")
    assert "hydra.callbacks" in refused("run", "-m", "--config-dir", folder, "experiment=trial", "model=rnn,gru")
    assert not trace.exists()


@pytest.mark.parametrize("multirun", [False, True])
def test_a_file_that_changes_between_the_check_and_the_run(write_config, trace, elsewhere, tiny, multirun):
    folder = write_config("experiment/trial.yaml", "# @package _global_\nseed: 3\n")
    request = config.Request((*tiny, "experiment=trial"), multirun, str(folder))
    assert config.check_request(request)
    write_config("experiment/trial.yaml", "# @package _global_\nhydra: {callbacks: {x: {_target_: evil.Callback}}}\n")
    before = set(elsewhere.iterdir())
    with pytest.raises(UserError, match=r"hydra\.callbacks"):
        launching.launch(request, lambda experiment, directory, files: pytest.fail("ran"))
    assert not trace.exists()
    assert set(elsewhere.iterdir()) == before


TARGETS = (
    *("os.system", "subprocess.Popen", "builtins.eval", "builtins", "eval", "evil.Model", "evil_twin.Model"),
    *(
        "fedsim_evil.Model",
        "fedsim.config.launch.Hydra",
        "fedsim.config.compose.OmegaConf",
        "fedsim.config.compose.hydra.utils.instantiate",
    ),
    *(
        "fedsim.build.importlib.import_module",
        "fedsim.build.sys",
        "fedsim.runs.run.subprocess.Popen",
        "fedsim.runs.run.Path",
    ),
    *(
        "fedsim.cli.main.app",
        "fedsim.cli.main.main",
        "fedsim.__main__.main",
        "fedsim.compare.reading.Run",
        "fedsim.runs.run.Recorder",
    ),
    *(
        "fedsim.data.dataset.Task",
        "fedsim.nothing.X",
        "fedsim",
        "fedsim.",
        "fedsim..os.system",
        ".fedsim.x",
        "fedsim/x.Y",
    ),
    *("fedsim.server.optimizers.Adam", "fedsim.errors.UserError", "fedsim.models.recurrent.RecurrentModel"),
    *(
        "fedsim.models.recurrent.GRU.__init__",
        "FEDSIM.models.recurrent.GRU",
        "../fedsim.x",
        "fedsim.models.recurrent.GRU ",
    ),
)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_that_are_not_components(trace, target):
    with pytest.raises(UserError, match=r"^model(\._target_=|\.hidden_size=3: no such key|: )"):
        build.build({"_target_": target, "hidden_size": 3}, RecurrentModel, "model")
    assert not trace.exists()


@pytest.mark.parametrize("target", ["os.system", "evil.Model"])
def test_targets_in_a_file(refused, trace, write_config, target):
    folder = write_config("model/mine.yaml", f"_target_: {target}\n")
    line = refused("run", "model=mine", "--config-dir", folder)
    assert line.startswith(
        f"model._target_={target}: not a part of fedsim; if you trust the module, add --allow-module"
    )
    assert not trace.exists()


@pytest.mark.parametrize("target", ["null", "5", "[os.system]", "{os: system}", "${name}", "'os.system\n'"])
def test_targets_that_are_not_names(refused, write_config, target):
    folder = write_config("model/mine.yaml", f"_target_: {target}\nhidden_size: 3\n")
    assert refused("run", "model=mine", "name=os.system", "--config-dir", folder).startswith("model")


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=evil.Model",
        "data._target_=evil.Model",
        "client.optimizer._target_=evil.SGD",
        "+eval._target_=evil.Model",
    ],
)
def test_targets_on_the_command_line(refused, trace, override):
    key = override.lstrip("+").split("=")[0]
    assert refused("run", override).startswith(f"{key}=evil.")
    assert not trace.exists()


def test_a_component_by_resolver(refused, trace):
    line = refused("run", "++model=${oc.decode:'{_target_: evil.Model}'}")
    assert "model" in line
    assert not trace.exists()


def test_a_module_that_the_user_named(fedsim, tiny, trace, write_config):
    folder = write_config("model/mine.yaml", "_target_: evil.Model\nhidden_size: 3\nextra: 5\n")
    arguments = ("run", *tiny, "model=mine", "--config-dir", folder, "--allow-module", "evil", "hydra.run.dir=run")
    assert fedsim(*arguments, "--dry-run").code == 0
    assert trace.exists()
    answer = fedsim(*arguments)
    assert answer.code == 0, answer
    written = Path("run/config.yaml").read_text()
    assert "_target_: evil.Model\n" in written
    assert "extra: 5\n" in written


@pytest.mark.parametrize(
    "target", ["evil_twin.Model", "evilx.Model", "os.system", "evil.Popen", "evil.os.system", "evil.SGDx"]
)
def test_only_the_allowed_module(trace, target):
    with pytest.raises(UserError, match=r"^model\._target_="):
        build.build({"_target_": target}, RecurrentModel, "model", ["evil"])
    assert "evil_twin" not in sys.modules


def test_a_class_must_be_defined_in_an_allowed_module(refused, trace, write_config, elsewhere):
    (elsewhere / "evil.py").write_text("from evil_twin import Model\n")
    folder = write_config("model/mine.yaml", "_target_: evil.Model\n")
    assert "is not a component" in refused("run", "model=mine", "--config-dir", folder, "--allow-module", "evil")


def test_the_script_finds_a_module_of_the_current_folder_and_no_plugins(elsewhere, tmp_path, tiny, write_config):
    script = Path(sys.executable).with_name("fedsim")
    if not script.exists():
        pytest.skip("fedsim is not installed as a script")
    for name in ("mine", "hydra_plugins/evil"):
        file = elsewhere / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(EVIL.format(trace=str(tmp_path / name.replace("/", "_"))))
    folder = write_config("model/mine.yaml", "_target_: mine.Model\nhidden_size: 3\n")
    command = [script, "run", *tiny, "model=mine", "--config-dir", folder, "--allow-module", "mine", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "mine").exists()
    assert not (tmp_path / "hydra_plugins_evil").exists()


@pytest.mark.parametrize("name", ["späße, [it's] $HOME=#1", 'a b%41"c'])
def test_a_config_folder_of_any_name(fedsim, tiny, tmp_path, name):
    file = tmp_path / name / "experiment" / "trial.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\n# A trial\nseed: 77\n")
    answer = fedsim("run", *tiny, "experiment=trial", "--config-dir", tmp_path / name, "hydra.run.dir=run")
    assert answer.code == 0, answer
    assert "seed: 77\n" in Path("run/config.yaml").read_text()
    assert "experiment=trial" in fedsim("list", "experiment", "--config-dir", tmp_path / name).out


def test_control_characters_are_not_printed(refused):
    line = refused("run", "'mod\x1b]0;owned\x07el'=gru".replace("'", ""))
    assert "\x1b" not in line
    assert "\x07" not in line


def test_nothing_in_the_package_reads_pickles_or_runs_text():
    forbidden = re.compile(r"import pickle|torch\.load\(|allow_pickle=True|yaml\.(unsafe_)?load\(|\b(eval|exec)\(")
    for file in Path(package.__file__).parent.rglob("*.py"):
        assert not forbidden.search(file.read_text(encoding="utf-8")), file
