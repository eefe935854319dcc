"""The documentation's pages on config groups, generated from the YAML files and the dataclasses' docstrings.

MkDocs calls the two ``on_...`` functions at every build (`hooks` in mkdocs.yml). Nothing is written to the source tree,
so the pages cannot go stale.
"""

import dataclasses
import importlib
import importlib.resources
import inspect
import re
from pathlib import Path

import yaml

from fedsim.config.compose import list_options
from fedsim.config.loader import CONFIG_MODULE
from fedsim.federation.experiment import Experiment

FOLDER = Path(str(importlib.resources.files(CONFIG_MODULE)))

BEGINNINGS = {
    "client/optimizer": "Learning rate of the clients: `client.optimizer.lr`, and the optimizer that takes the steps.",
    "aggregator/server_optimizer": "Learning rate of the server: `aggregator.server_optimizer.lr`, and its optimizer.",
}
"""First lines of pages, with the words that people search for."""


def on_config(config):
    """Put the pages into the navigation, first under "Reference"."""
    groups = [{group: page_of(group)} for group in list_options()]
    reference = next(section["Reference"] for section in config.nav if "Reference" in section)
    reference.insert(0, {"Options": [{"top level": page_of("top level")}, *groups]})
    return config


def on_files(files, config):
    """Add the pages to the build."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def page_of(group):
    return f"options/{group.replace('/', '-').replace(' ', '-')}.md"


def pages():
    """All pages, as ``{path: Markdown}``."""
    groups = list_options()
    made = {page_of(group): group_page(group, options) for group, options in groups.items()}
    return made | {page_of("top level"): top_level()}


def top_level():
    """The page on the keys outside all groups."""
    prose, explained = documented(Experiment)
    file = FOLDER / "config.yaml"
    defaults = {
        k: v for entry in yaml.safe_load(file.read_text())["defaults"] if entry != "_self_" for k, v in entry.items()
    }
    lines = ["# Top level", "", comment(file), "", prose, "", *keys_table(file, "", explained, skip=("hydra",))]
    lines += ["", "## Groups", "", "| group | default | meaning |", "|---|---|---|"]
    for group, option in defaults.items():
        if group in list_options():
            chosen = f"`{option}`" if option else ""
            what = explained.get(group, "a whole set-up: options and values together")
            lines.append(f"| [`{group}`]({Path(page_of(group)).name}) | {chosen} | {cell(what)} |")
    return "\n".join(lines) + "\n"


def group_page(group, options):
    parent = group.rpartition("/")[0]
    what = documented(Experiment)[1].get(group, "") if not parent else ""
    lines = [f"# {group}", "", BEGINNINGS.get(group) or what[:1].upper() + what[1:], ""]
    if group == "client/optimizer":  # whoever searches for "learning rate" finds this page first
        lines = ["---", "search:", "  boost: 10", "---", "", *lines]
    if parent:
        lines += [f"A part of [`{parent}`]({Path(page_of(parent)).name}), chosen by `{group}=OPTION`.", ""]
    lines += ["| option | |", "|---|---|"]
    lines += [f"| [`{group}={o}`](#{o}) | {cell(comment(FOLDER / group / f'{o}.yaml'))} |" for o in options]
    for option in options:
        lines += ["", f"## {group}={option} {{: #{option} }}", "", *option_lines(group, option)]
    return "\n".join(lines) + "\n"


def option_lines(group, option):
    """The section on one option."""
    file = FOLDER / group / f"{option}.yaml"
    content = yaml.safe_load(file.read_text()) or {}
    lines = [cell(comment(file)) + ".", ""]
    if "_target_" not in content:  # values for several groups at once
        return [*lines, "```yaml", file.read_text().rstrip(), "```"]
    prose, explained = documented(find(content["_target_"]))
    lines += [f"`{content['_target_']}`", "", prose, ""]
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            for part, chosen in entry.items():
                other = re.match(r"override /([\w/]+)", part)  # of another group
                name = other[1] if other else f"{group}/{part}"
                lines += [f"- [`{name}={chosen}`]({Path(page_of(name)).name}#{chosen})"]
    return [*lines, "", *keys_table(file, group.replace("/", ".") + ".", explained)]


def keys_table(file, prefix, explained, skip=()):
    """A table of every key, with its default and its comment in the YAML or, without one, its line in the docstring."""
    rows = []
    text, content = file.read_text(), yaml.safe_load(file.read_text())

    def add(key, value, where, name):
        found = re.search(rf"^ *{re.escape(key)}:.*?\s# (.*)$", text, re.M)
        what = found[1] if found else explained.get(key, "")
        rows.append(f"| `{prefix}{where}` | `{show(value)}` | {cell(what)} |")

    for key, value in content.items():
        if key in ("defaults", "_target_", *skip):
            continue
        for inner, item in value.items() if isinstance(value, dict) else [(None, value)]:
            add(inner or key, item, key if inner is None else f"{key}.{inner}", key)
    return ["| key | default | |", "|---|---|---|", *rows] if rows else []


def find(target):
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def documented(cls):
    """A dataclass's docstring without its attributes, and these as ``{name: text}``."""
    text = inspect.cleandoc(cls.__doc__ or "")
    prose, _, attributes = text.partition("\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", attributes, re.M)
    explained = {name: " ".join(what.split()) for name, what in found}
    for base in cls.__mro__[1:]:
        if dataclasses.is_dataclass(base):
            explained = documented(base)[1] | explained
    return prose.strip(), explained


def comment(file):
    """The line that `fedsim list` shows."""
    return next(line for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line)[
        2:
    ].rstrip(".")


def show(value):
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def cell(text):
    """Text escaped for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("*", "\\*")
