"""`docs/privacy-refusals.md`: its tables say what the commands say, and no refusal of privacy is missing."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import fedsim as package
from fedsim.core.facts import Fact
from fedsim.federation.clashes import CLASHES

ROOT = Path(package.__file__).parents[1]
PAGE = (ROOT / "docs" / "privacy-refusals.md").read_text()
TOKEN = re.compile(
    r"^```(?P<kind>bash|csv)\n(?P<text>.*?)```|^\| `(?P<settings>[^|]*)` \| `(?P<message>[^|]*)` \|$", re.S | re.M
)
HIDING = {Fact.PRIVATE_MEAN, Fact.HIDES_ROWS, Fact.NOISE_ON_CLIENTS}


def test_each_line_is_what_the_command_says(fedsim, refused):
    """A block with one command is what the settings stand behind; runs that have a name are made first."""
    pytest.importorskip("dp_accounting")
    base, lines = [], 0
    for token in TOKEN.finditer(PAGE):
        if token["kind"] == "csv":
            Path("loads.csv").write_text(token["text"])
        elif token["kind"] == "bash":
            for line in token["text"].splitlines():
                name, *words = shlex.split(line)
                assert name == "fedsim"
                if "hydra.run.dir=" in line:
                    assert fedsim(*words, "device=cpu", "threads=1").code == 0
                else:
                    base = words
        else:
            assert refused(*base, *shlex.split(token["settings"])) == token["message"]
            lines += 1
    assert lines == PAGE.count("\n| `") > 50


def constants(node):
    """The parts of a message that do not depend on the run."""
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def raised():
    """Yield the longest fixed part of every message that the code of privacy raises itself."""
    for path in sorted((ROOT / "fedsim" / "privacy").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            if isinstance(node.exc.func, ast.Name) and node.exc.func.id in ("UserError", "FieldError", "Diverged"):
                yield path.name, max((part for part in constants(node.exc) if part), key=len)


def test_no_refusal_is_missing():
    words = " ".join(PAGE.split())
    found = list(raised())
    assert len(found) > 15
    assert [(name, part) for name, part in found if " ".join(part.split()) not in words] == []


def test_no_clash_is_missing():
    def pattern(text):
        return re.sub(r"\\\{\w+\\\}", ".+", re.escape(text))

    clashes = [clash for clash in CLASHES if {clash.first, clash.second} & HIDING]
    assert len(clashes) > 20
    missing = [one for one in clashes if not re.search(f": {pattern(one.why)}; {pattern(one.way_out)}", PAGE)]
    assert missing == []
