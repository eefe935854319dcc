"""The generated pages of the documentation are complete: each option, each key with its default, each docstring."""

import dataclasses
import importlib.resources
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from fedsim.config.documented import comment_of, find

ROOT = Path(__file__).parents[2]
CONFIGS = Path(str(importlib.resources.files("fedsim.configs")))
OPTIONS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if path.parent != CONFIGS)


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("docs_options", ROOT / "scripts" / "docs_options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(hook):
    return hook.pages()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_explained(name, hook, pages):
    group, _, option = name.removesuffix(".yaml").rpartition("/")
    _, _, section = pages[hook.page_of(group)].partition(f"\n## {group}={option} {{: #{option} }}\n")
    section = section.partition("\n## ")[0]
    assert hook.cell(comment_of((CONFIGS / name).read_text())) in section
    content = yaml.safe_load((CONFIGS / name).read_text())
    if "_target_" not in content:
        assert (CONFIGS / name).read_text().rstrip() in section
        return
    cls = find(content["_target_"])
    assert cls.__doc__.splitlines()[0] in section
    assert "Attributes:" not in section
    chosen = {part for entry in content.get("defaults", []) if isinstance(entry, dict) for part in entry}
    for field in dataclasses.fields(cls):
        if field.name in chosen:
            assert f"`{group}/{field.name}=" in section
        else:
            row = re.escape(f"| `{group.replace('/', '.')}.{field.name}") + r"(\.\w+)?` \| `.*` \| (.*) \|"
            found = re.search(row, section)
            assert found, field.name
            assert found[2] or len(content) == 2, field.name  # a single key is explained by the first line


def test_links_have_targets(pages):
    for path, text in pages.items():
        for file, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
            target = pages[f"options/{file}"] if file else text
            assert not anchor or f"{{: #{anchor} }}" in target, (path, file, anchor)


def test_every_page_written_by_hand_is_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert {next(iter(entry.values())) for entry in navigation} == {path.name for path in ROOT.glob("docs/*.md")}


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    assert "fedsim.aggregation.median.Median" in (tmp_path / "options" / "aggregator-combine.html").read_text()
