"""The generated pages of the documentation are complete: each option, each key with its default, each docstring."""

import dataclasses
import importlib.resources
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from fedsim.config.documented import comment_of, find

ROOT = Path(__file__).parents[2]
CONFIGS = Path(str(importlib.resources.files("fedsim.configs")))
OPTIONS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if path.parent != CONFIGS)


def loaded(script):
    """A hook of the documentation, as a module."""
    spec = importlib.util.spec_from_file_location(script, ROOT / "scripts" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hook():
    return loaded("docs_options")


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


def navigated(entries):
    """The pages in a navigation, however deep."""
    for entry in entries:
        for target in entry.values():
            yield from navigated(target) if isinstance(target, list) else [target]


def test_every_page_written_by_hand_is_in_the_navigation():
    navigation = list(navigated(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(navigation) == sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")
    )


def test_long_code_in_a_table_breaks_between_words_only():
    tables = loaded("docs_tables")
    long = "fedsim run data=csv data.path=x.csv data.target_column=y data.window=8"
    whole = f"<p><code>{long}</code></p><table><td><code>{long.replace(' ', '_')}</code> <code>a b</code></td></table>"
    assert tables.on_page_content(whole, None, None, None) == whole
    marked = tables.on_page_content(f'<td style="x">1 <code>{long}</code></td>', None, None, None)
    spans = " ".join(f"<span>{word}</span>" for word in long.split())
    assert marked == f'<td style="x">1 <code class="long">{spans}</code></td>'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built documentation; a warning ends the build."""
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.mark.slow
def test_the_site_builds_without_warnings(site):
    assert "fedsim.aggregation.median.Median" in (site / "options" / "aggregator-combine.html").read_text()


@pytest.mark.slow
def test_a_page_needs_nothing_from_elsewhere(site):
    """Whatever a browser fetches by itself lies in the folder, the script of the search without a server included."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img|iframe)\b[^>]*?\ssrc="([^"]+)', text)
        fetched += re.findall(r'<link\b[^>]*?rel="(?:stylesheet|icon|preconnect)"[^>]*?href="([^"]+)', text)
        assert any(file.endswith("iframe-worker.js") for file in fetched)
        if page.name == "404.html":  # whose addresses begin at the root of a server
            continue
        for file in fetched:
            assert (page.parent / file.partition("?")[0]).resolve().is_file(), (page, file)


@pytest.mark.slow
def test_a_search_for_the_learning_rate_finds_it_in_the_first_lines(site):
    documents = json.loads((site / "search" / "search_index.js").read_text().removeprefix("var __index = "))["docs"]
    (page,) = (entry for entry in documents if entry["location"] == "options/client-optimizer.html")
    assert page["text"].startswith("<p>Learning rate of the clients: <code>client.optimizer.lr</code>")
    assert page["boost"] > 1
