"""Every command in README.md and docs/ is run, as it stands but shorter, and every block of Python that goes with it.

A page is followed from top to bottom in one folder: files that it announces are written, later commands see what
earlier ones left. New pages and commands are found by themselves.
"""

import re
import shlex
from pathlib import Path

import pytest

import fedsim as package
from fedsim import config

ROOT = Path(package.__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
FENCE = re.compile(r"(?:^`(?P<file>[\w/.]+)`:\n\n|`(?P<last>[\w/.]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S | re.M)

SHORT = ("rounds=1", "threads=1", "device=cpu", "console=none", "engine.kernels=torch")
"""What is added to `fedsim run`: the kernels are compiled for each process anew."""

LONGER = {
    "aggregator/server_optimizer/schedule": "rounds=2",
}
"""Commands that have no effect in one round."""
