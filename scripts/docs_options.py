"""The documentation's pages on config groups, generated from the YAML files and the dataclasses' docstrings.

MkDocs calls the two ``on_...`` functions at every build (`hooks` in mkdocs.yml). Nothing is written to the source tree,
so the pages cannot go stale.
"""

from pathlib import Path

from fedsim.config.compose import list_options
from fedsim.config.documented import file_of, groups_explained, read_option, top_level

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
    options = {group: [read_option(group, name) for name in names] for group, names in list_options().items()}
    explained = groups_explained(options)
    made = {page_of(group): group_page(group, options[group], explained[group]) for group in options}
    return made | {page_of("top level"): top_page(explained)}


def top_page(explained):
    """The page on the keys outside all groups."""
    top = top_level()
    lines = ["# Top level", "", top.comment, "", top.prose, "", *keys_table(top.keys)]
    lines += ["", "## Groups", "", "| group | default | meaning |", "|---|---|---|"]
    chosen = dict(top.parts)
    for group in (*chosen, *(group for group in explained if "/" not in group and group not in chosen)):
        default = f"`{chosen[group]}`" if group in chosen else ""
        lines.append(f"| [`{group}`]({Path(page_of(group)).name}) | {default} | {cell(explained[group])} |")
    return "\n".join(lines) + "\n"


def group_page(group, options, explained):
    parent = group.rpartition("/")[0]
    lines = [f"# {group}", "", BEGINNINGS.get(group) or explained[:1].upper() + explained[1:], ""]
    if group == "client/optimizer":  # whoever searches for "learning rate" finds this page first
        lines = ["---", "search:", "  boost: 10", "---", "", *lines]
    if parent:
        lines += [f"A part of [`{parent}`]({Path(page_of(parent)).name}), chosen by `{group}=OPTION`.", ""]
    lines += ["| option | |", "|---|---|"]
    lines += [f"| [`{one.title}`](#{one.name}) | {cell(one.comment)} |" for one in options]
    for one in options:
        lines += ["", f"## {one.title} {{: #{one.name} }}", "", *option_lines(one)]
    return "\n".join(lines) + "\n"


def option_lines(option):
    """The section on one option."""
    lines = [cell(option.comment).rstrip(".") + ".", ""]
    if option.target is None:  # values for several groups at once
        return [*lines, "```yaml", file_of(option.group, option.name).read_text().rstrip(), "```"]
    lines += [f"`{option.target}`", "", option.prose, ""]
    lines += [f"- [`{group}={name}`]({Path(page_of(group)).name}#{name})" for group, name in option.parts]
    return [*lines, "", *keys_table(option.keys)]


def keys_table(keys):
    """A table of every key, with its default and its comment in the YAML or, without one, its line in the docstring."""
    rows = [f"| `{key.name}` | `{key.default}` | {cell(key.meaning)} |" for key in keys]
    return ["| key | default | |", "|---|---|---|", *rows] if rows else []


def cell(text):
    """Text escaped for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("*", "\\*")
