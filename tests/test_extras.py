"""Hints on how to install what is missing: what pyproject.toml asks for, wherever fedsim was installed from."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fedsim
from fedsim import extras
from fedsim.errors import UserError

ROOT = Path(fedsim.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WRITTEN = {name: wanted for name, wanted in PROJECT["optional-dependencies"].items() if name not in extras.DEVELOPERS}


@pytest.fixture(autouse=True)
def read_anew():
    extras._all.cache_clear()
    yield
    extras._all.cache_clear()


def test_they_are_those_of_the_project():
    found = extras.extras()
    assert found.keys() == WRITTEN.keys()
    for name, wanted in WRITTEN.items():
        assert [Requirement(text) for text in found[name]] == [Requirement(text) for text in wanted]
    assert set(extras.DEVELOPERS) == set(PROJECT["optional-dependencies"]) - set(WRITTEN)


def test_a_hint_names_the_requirements_in_quotes():
    assert extras.install_hint("onnx") == (
        "install with: python -m pip install 'onnx>=1.16' 'onnxruntime>=1.18' (the extra 'onnx')"
    )


def test_requirements_for_another_python_are_left_out(monkeypatch):
    listed = ["numpy>=2", 'old==1; python_version < "3" and extra == "plot"', "more[b,a]<3,>2; extra == 'plot'"]
    monkeypatch.setattr(metadata, "requires", lambda name: listed)
    assert extras.install_hint("plot") == "install with: python -m pip install 'more[a,b]<3,>2' (the extra 'plot')"


def test_not_installed_but_on_the_path(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert extras.extras() == {}
    assert extras.install_hint("plot") == "install fedsim with its extra 'plot'"
    assert extras.requirement("pytest") == "pytest"


def test_what_is_missing():
    assert extras.missing(["numpy>=1", "numpy<1", "there-is-no-such-package"]) == [
        "numpy<1",
        "there-is-no-such-package",
    ]
    with pytest.raises(UserError, match=r"^--x: needs no_a and no_b; install with: .* \(the extra 'plot'\)$"):
        extras.require("--x", "plot", "no_a", "os", "no_b")
    extras.require("--x", "plot", "os")
    assert extras.requirement("Matplotlib") == "matplotlib>=3.8"


def test_every_hint_is_made_here_and_names_an_extra():
    """No other file writes `pip install`, or names an extra that pyproject.toml does not have."""
    for file in [*ROOT.glob("fedsim/**/*.py"), *ROOT.glob("scripts/**/*.py")]:
        text = file.read_text(encoding="utf-8")
        if file.name not in ("extras.py", "csv_defaults.py"):  # the script's packages are no extra
            assert "pip install" not in text, file
        named = re.findall(r"install_hint\(['\"](\w+)['\"]\)", text)
        named += re.findall(r"(?<!def )require\(f?['\"][^'\"]*['\"], ['\"](\w+)['\"]", text)
        assert set(named) <= set(WRITTEN), file
