"""The outputs that pages of the documentation show are those of the commands above them.

A page is followed from top to bottom in an empty folder, its commands as printed. A block of ``text`` must then be
found in the output of one of them (or in a ``metrics.csv`` that one has written): its lines in order and without gaps,
except where the page has a line of three dots. What may differ between machines is compared like this:

- words and whole numbers: exactly, but for the round of the best value;
- numbers with a decimal point: to 0.02 or 2%; in lines of means over seeds (±), means to 0.02 or 10% and the rest to
  0.1 or 30%, since spreads, intervals and p-values of three seeds change much if a single sample changes sides;
- the name of the working folder, and whether kernels had to be compiled first: not at all.
"""

import re
import runpy
import shlex
from pathlib import Path

import pytest

import fedsim as package

ROOT = Path(package.__file__).parents[1]
FENCE = re.compile(r"(?:^`(?P<file>[\w/.]+)`[^\n]*:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S | re.M)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?(?![\w])")

ELSEWHERE = {
    "texts.md": "its output is that of a play which has to be downloaded",
}
SLOW = ("asynchrony.md", "devices.md", "study.md", "tutorial.md")
INSTALLED = "python -m pip install"


def blocks(page):
    """The fenced blocks of a page, as ``(name of the file announced before it, or None, language, text)``."""
    found = FENCE.finditer((ROOT / "docs" / page).read_text())
    return [(match["file"] if match["kind"] != "bash" else None, match["kind"], match["text"]) for match in found]


PAGES = [
    pytest.param(page, marks=pytest.mark.slow if page in SLOW else [])
    for page in sorted(path.name for path in ROOT.glob("docs/*.md"))
    if page not in ELSEWHERE and any(kind == "text" for _, kind, _ in blocks(page))
]


def line_of(text):
    """A line as it is compared: its words, and its numbers, each with the absolute and the relative tolerance."""
    text = re.sub(r"; compiling them first, once on this machine, takes some seconds", "", text)
    text = re.sub(r"in round \d+", "in round ROUND", text)
    text = re.sub(r"[\w/.-]*/(outputs/[\w/.-]+)", r"\1", text)  # the working folder
    numbers = []
    for found in NUMBER.finditer(text):
        mean = text[found.end() :].lstrip().startswith("±")
        tolerances = (0.02, 0.1) if mean else (0.1, 0.3) if "±" in text else (0.02, 0.02)
        numbers.append((found[0].replace(",", ""), *tolerances))
    return " ".join(re.sub(r"[─ ]+", " ", NUMBER.sub("#", text)).split()), numbers


def agree(shown, found):
    """Whether a line of a page is a line of an output."""
    (words, numbers), (others, values) = shown, found
    if words != others:
        return False
    for (number, absolute, relative), (value, *_) in zip(numbers, values, strict=True):
        if number != value and not ("." in number and "." in value):
            return False
        if abs(float(number) - float(value)) > max(absolute, relative * abs(float(value))):
            return False
    return True


def holds(shown, output):
    """Whether the lines of a block of text, with dots for gaps, are in an output."""
    lines = [line_of(line) for line in output.splitlines()]
    position = 0
    for part in re.split(r"^ *\.\.\. *\n", shown, flags=re.M):
        wanted = [line_of(line) for line in part.splitlines()]
        for start in range(position, len(lines) - len(wanted) + 1):
            if all(map(agree, wanted, lines[start:])):
                position = start + len(wanted)
                break
        else:
            return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_the_outputs_of_a_page(page, fedsim, elsewhere, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    if "RUN_DIR" in (ROOT / "docs" / page).read_text():
        assert fedsim("run", "rounds=1", "threads=1", "model.hidden_size=2", "hydra.run.dir=RUN_DIR").code == 0
    outputs, here = [], {}
    for file, kind, text in blocks(page):
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(text)
        elif kind == "python":
            exec(compile(text, page, "exec"), here)  # noqa: S102  # it is ours
        elif kind == "bash":
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if not words or line.startswith(INSTALLED):
                    continue
                if words[0] == "python":  # a script that the page shows
                    runpy.run_path(words[1])
                    continue
                assert words[0] == "fedsim", line
                answer = fedsim(*words[1:], *(["device=cpu"] if words[1] == "run" else []))
                assert answer.code == 0, (line, answer.err)
                outputs.append(answer.out)
        elif kind == "text":
            written = [path.read_text() for path in elsewhere.rglob("metrics.csv")]
            assert any(holds(text, output) for output in outputs + written), (text, outputs[-1:])


def test_a_stale_output_is_found():
    """What the comparison must see, and what it must not mind."""
    output = (
        "GRU with 15,561 parameters\nto beat: test_accuracy 0.08378\nround 1/2  delta_norm 1.2139\ndone in round 7\n"
    )
    assert holds("GRU with 15,561 parameters\nto beat: test_accuracy 0.0838\n", output)
    assert holds("GRU with 15,561 parameters\n...\nround 1/2  delta_norm 1.2101\ndone in round 9\n", output)
    assert not holds("GRU with 15,561 parameters\nround 1/2  delta_norm 1.2139\n", output)  # a line is missing
    assert not holds("GRU with 15,562 parameters\n", output)  # a whole number
    assert not holds("round 1/2  delta_norm 1.3\n", output)  # 7%
    assert not holds("round 1/2  delta_norm 1\n", output)
    assert not holds("round 1/2  client_drift 1.2139\n", output)
    assert not holds("round 1/2  delta_norm 1.2139\n...\nGRU with 15,561 parameters\n", output)  # in this order
    table = "fedavg 3 0.9595 ± 0.0027 3/3 p 0.707\n"
    assert holds(table.replace("0.707", "0.65"), table)
    assert not holds(table.replace("0.9595", "0.8"), table)
    assert not holds(table.replace("3/3", "2/3"), table)


def test_every_exception_is_still_needed():
    assert set(ELSEWHERE) | set(SLOW) <= {path.name for path in ROOT.glob("docs/*.md")}
    assert all(any(kind == "text" for _, kind, _ in blocks(page)) for page in (*ELSEWHERE, *SLOW))
