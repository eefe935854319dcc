"""The pages on algorithms name every algorithm; the keys and defaults that they give are those of the YAML files."""

import importlib.resources
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIGS = Path(str(importlib.resources.files("fedsim.configs")))
PAGES = sorted(path.name for path in ROOT.glob("docs/aggregators*.md"))
ALGORITHMS = {
    "aggregator": CONFIGS / "aggregator",
    "link/up": CONFIGS / "link/up",
    "privacy": CONFIGS / "privacy",
    "personalize": CONFIGS / "personalize",
}


def sections():
    """The text below each heading of the second level, by heading; a heading of two pages would be ambiguous."""
    found = {}
    for page in PAGES:
        for section in re.split(r"^## ", (ROOT / "docs" / page).read_text(), flags=re.M)[1:]:
            heading, _, text = section.partition("\n")
            assert heading == "Measured" or heading not in found, heading
            found[heading] = text
    return found


SECTIONS = sections()
OPTIONS = sorted((group, path.stem) for group, folder in ALGORITHMS.items() for path in folder.glob("*.yaml"))


def defaults_of(group, option):
    """The keys of an option and of the parts that it chooses, by their last word."""
    content = yaml.safe_load((ALGORITHMS[group] / f"{option}.yaml").read_text())
    keys = {key: value for key, value in content.items() if key not in ("defaults", "_target_")}
    for entry in content.get("defaults", []):
        for part, chosen in entry.items() if isinstance(entry, dict) else ():
            if not part.startswith("override"):
                keys |= yaml.safe_load((CONFIGS / group / part / f"{chosen}.yaml").read_text())
    return keys


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_algorithm_has_a_section_with_its_own_defaults(group, option):
    if option == "none":
        return
    text, keys = SECTIONS[option], defaults_of(group, option)
    for key, value in re.findall(r"`([\w.]+)` \((\d[\w.-]*)", text):
        assert float(keys[key.rpartition(".")[2]]) == float(value), key


def test_the_defaults_are_found():
    """What the test above looks for is there: the numbers in brackets behind keys."""
    found = [key for text in SECTIONS.values() for key, _ in re.findall(r"`([\w.]+)` \((\d[\w.-]*)", text)]
    assert len(found) > 25
    assert {"aggregator.combine.beta", "tau", "beta2", "fraction", "personalize.steps"} <= set(found)


@pytest.mark.parametrize("page", [*PAGES, "glossary.md", "what-is-simulated.md"])
def test_a_key_exists(page):
    """Every key with a dot, such as `client.optimizer.lr`, is one of some YAML file."""
    keys = set()
    for path in CONFIGS.rglob("*.yaml"):
        group = path.parent.relative_to(CONFIGS).as_posix().replace("/", ".")
        prefix = "" if group == "." else f"{group}."
        keys |= {prefix + key for key in (yaml.safe_load(path.read_text()) or {})}
    groups = {key.partition(".")[0] for key in keys if "." in key}
    named = re.findall(r"`(\w+(?:\.\w+)+)(?:=[^`]*)?`", (ROOT / "docs" / page).read_text())
    assert [name for name in named if name.partition(".")[0] in groups and name not in keys] == []


@pytest.fixture(scope="module")
def formulas():
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("docs_math", ROOT / "scripts" / "docs_math.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_become_mathml(formulas):
    """The inputs are what pymdownx.arithmatex writes."""
    inline = formulas.on_page_content(
        '<p>a <span class="arithmatex">\\(x &lt; \\lVert d \\rVert\\)</span> b</p>', None, None, None
    )
    assert inline.startswith('<p>a <math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">')
    assert inline.endswith("</math> b</p>")
    assert "<mo>&#x0003C;</mo>" in inline
    assert inline.count('<mo stretchy="false">&#x02016;</mo>') == 2
    block = formulas.on_page_content('<div class="arithmatex">\\[\n\\frac{1}{2}\n\\]</div>', None, None, None)
    assert block.startswith('<div class="formula"><math')
    assert 'display="block"' in block
    assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>" in block


@pytest.mark.parametrize("text", [r"\nonsense x", r"a & b"])
def test_a_formula_that_cannot_be_converted_ends_the_build(text, formulas):
    with pytest.raises(ValueError, match="cannot be converted"):
        formulas.mathml(text, "inline")
