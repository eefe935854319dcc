"""What the documents tell users to write and to type works as it stands."""

import re
import shlex
from pathlib import Path

import fedsim as package

DOCS = Path(package.__file__).parents[1] / "docs"


def blocks(page):
    """The fenced blocks of a page, as ``(name of the file announced before it, or None, language, text)``."""
    text = (DOCS / page).read_text()
    found = re.finditer(r"(?:^`(?P<file>[\w/.]+)`[^\n]*:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", text, re.S | re.M)
    return [(match["file"], match["kind"], match["text"]) for match in found]


def test_your_own_data(fedsim, elsewhere):
    commands = []
    for file, kind, text in blocks("your-own-data.md"):
        if file:
            (elsewhere / file).parent.mkdir(parents=True, exist_ok=True)
            (elsewhere / file).write_text(text)
        elif kind == "bash":
            commands += text.splitlines()
    assert len(commands) == 1
    name, *words = shlex.split(commands[0])
    assert name == "fedsim"
    answer = fedsim(*words, "hydra.run.dir=run", "device=cpu")
    assert (answer.code, answer.err) == (0, "")
    last = (elsewhere / "run" / "metrics.csv").read_text().splitlines()[-1]
    assert last.startswith("5,20,")
