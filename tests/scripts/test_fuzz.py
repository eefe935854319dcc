"""A few of the cases of `scripts/fuzz.py`, and that it notices what it is there to notice."""

import importlib.util
import sys
from pathlib import Path

import pytest

import fedsim

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz"]


def test_a_few_cases(fuzz):
    report = fuzz.fuzz([*fuzz.KINDS], 24, 3)
    assert report.findings == []
    assert sum(report.codes.values()) == 24
    assert {"0", "2"} <= {*report.codes}  # some are accepted, some refused


@pytest.mark.parametrize(
    ("does", "word"),
    [
        (lambda: 1 / 0, "ZeroDivisionError at test_fuzz.py"),
        (lambda: Path("../canary/a.txt").write_text("touched"), "files beside the folder were changed"),
        (lambda: print("s3cr3t-of-the-environment"), "a secret of the environment came out"),
        (lambda: Path("kept").write_text("s3cr3t-of-the-environment"), "a secret of the environment came out"),
        (
            lambda: print("Traceback (most recent call last):\n  ValueError: x", file=sys.stderr),
            "a traceback, ValueError",
        ),
        (lambda: sys.exit(77), "exit code 77"),
    ],
)
def test_what_counts_against_fedsim(fuzz, monkeypatch, does, word):
    """Each kind of finding, by a command that does it."""

    def command():
        does()
        sys.exit(0)

    with fuzz.a_place() as place:
        monkeypatch.chdir(place)
        monkeypatch.setattr(fuzz.cli, "main", command)
        report = fuzz.Report()
        fuzz.case("table", 1, place, place, report)
    (finding,) = report.findings
    assert finding.startswith("--only table --cases 1 --seed 1: ")
    assert word in finding


def test_a_command_that_hangs(fuzz, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    monkeypatch.setattr(fuzz.cli, "main", lambda: __import__("time").sleep(20))
    with fuzz.a_place() as place:
        monkeypatch.chdir(place)
        report = fuzz.Report()
        fuzz.case("table", 1, place, place, report)
    assert "TooLongError" in report.findings[0]
