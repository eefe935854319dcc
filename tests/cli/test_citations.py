"""The documentation gives papers the years that the docstrings and configs give them."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
CITATION = re.compile(r"\b([A-Z][A-Za-z]+)(?: et al\.| and [A-Z][a-z]+)? \(?((?:19|20)\d\d)\b")
ONLY_IN_DOCS = {("Bonawitz", "2019")}
"""Papers that the docs cite beside others of the same first author."""


def cited(paths):
    found = defaultdict(set)
    for path in paths:
        for author, year in CITATION.findall(" ".join(path.read_text(encoding="utf-8").split())):
            found[author].add(year)
    return found


def test_years_agree():
    code = cited([*ROOT.glob("fedsim/**/*.py"), *ROOT.glob("configs/**/*.yaml")])
    docs = cited([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
    assert len(code) > 30
    pairs = {(author, year) for author, years in docs.items() for year in years if author in code}
    assert len(pairs) > 10
    assert {(a, y) for a, y in pairs if y not in code[a]} == ONLY_IN_DOCS
