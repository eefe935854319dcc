"""``fedsim list``: groups, their options, the options' keys, and where words occur in any of them."""

from __future__ import annotations

import difflib
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text  # not plain strings, in which rich reads [brackets] as markup

from fedsim.config.documented import Key, Option, comment_of, file_of, groups_explained, read_option, top_level
from fedsim.config.option_files import config_folders, groups_of
from fedsim.errors import UserError, did_you_mean, print_error, printable
from fedsim.yaml_bounds import read_bounded

Row = tuple[str, ...]


def show(words: Sequence[str], config_dir: str | None) -> None:
    """Print all groups, one group, the keys of options, or where words occur.

    Args:
        words: a group, or options such as ``client=default``, or else words that must all occur; none: all groups.
        config_dir: a folder with the user's own configs.

    Raises:
        UserError: if there is no such thing.
    """
    groups = groups_of(config_folders(None)) if config_dir is None else _with_own(config_dir)
    words = [word for text in words for word in text.split()]
    named = [word.replace(".", "/") for word in words]
    if not words:
        _show_groups(list(groups), groups, config_dir)
    elif len(words) == 1 and named[0] in groups:
        _show_groups(named, groups, config_dir)
    elif all("=" in word and word.partition("=")[0].replace(".", "/") in groups for word in words):
        for group, option in [_chosen(word, groups) for word in words]:
            _show_option(group, option, config_dir)
    else:  # of KEY=VALUE, the key
        _print(_search([word.partition("=")[0] or word for word in words], groups, config_dir))


def _with_own(config_dir: str) -> dict[str, list[str]]:
    """Groups and options with the user's own, whose folder is checked."""
    from fedsim.config.compose import list_options  # which needs Hydra

    return list_options(config_dir)


def _show_groups(names: Sequence[str], groups: Mapping[str, Sequence[str]], config_dir: str | None) -> None:
    for name in names:
        rows = [(f"  {name}={option}", _comment(name, option, config_dir)) for option in groups[name]]
        _print(rows, heading=name)


def _comment(group: str, option: str, config_dir: str | None) -> str:
    """The first comment of an option's file; empty if the file cannot be read, which is reported where it is used."""
    try:
        return comment_of(read_bounded(file_of(group, option, config_dir)))
    except UserError:
        return ""


def _chosen(word: str, groups: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The group and the option of ``client/optimizer=sgd`` (or ``client.optimizer=sgd``)."""
    group, _, option = word.partition("=")
    group = group.replace(".", "/")
    if option not in groups[group]:
        raise UserError(
            f"{word}: no such option{did_you_mean(option, groups[group])}; available: {', '.join(groups[group])}"
        )
    return group, option


# ---------------------------------------------------------------------------------------------------------------------
# the keys of an option


def _show_option(group: str, name: str, config_dir: str | None) -> None:
    """Print an option's keys, and those of the options that it chooses itself."""
    options = _with_parts(group, name, config_dir)
    first, meanings = options[0], {}
    if first.target is None:  # an experiment sets keys of other options, which explain them
        defaults = dict(top_level().parts) | dict(first.parts)
        others = [one for pair in defaults.items() for one in _with_parts(*pair, config_dir)]
        meanings = {key.name: key.meaning for one in (top_level(), *others) for key in one.keys}
        options = options[:1]
    rows: list[Row] = []
    for one in options:
        rows.append((one.title, "", one.comment))
        elsewhere = [pair for pair in one.parts if not pair[0].startswith(f"{one.group}/")]
        rows += [(f"  {part}={chosen}", "", _comment(part, chosen, config_dir)) for part, chosen in elsewhere]
        rows += [(f"  {key.name}", key.default, key.meaning or meanings.get(key.name, "")) for key in one.keys]
    _print(rows)


def _with_parts(group: str, name: str, config_dir: str | None) -> list[Option]:
    """An option, and those that it chooses within its own group, at any depth."""
    found, todo = [], [(group, name)]
    while todo:
        found.append(read_option(*todo.pop(0), config_dir))
        below = [pair for pair in found[-1].parts if pair[0].startswith(f"{group}/")]
        todo += [pair for pair in below if pair not in todo and pair not in [(one.group, one.name) for one in found]]
    return found


# ---------------------------------------------------------------------------------------------------------------------
# searching


@dataclass(frozen=True)
class _Place:
    """Something that words can be found in.

    Attributes:
        names: its own name; a word may be any part of it.
        around: names of what it belongs to, in which some but not all of the words may occur.
        said: its explanation; a word must begin where one of its words begins, as "already" is not about ``lr``.
        row: what is printed.
        more: a longer explanation, whose sentences with the words are printed if `said` does not have them.
    """

    names: str
    around: str
    said: str
    row: Row
    more: str = ""

    def has(self, word: str) -> bool:
        return self.named(word) or _begins(word, self.said) or _begins(word, self.more)

    def named(self, word: str) -> bool:
        """Whether a word is in its own name, or with a dot or slash in the whole one."""
        return word in (self.row[0] if re.search(r"[./]", word) else self.names).lower()

    def matches(self, words: Sequence[str]) -> bool:
        own = [self.has(word) for word in words]
        return any(own) and all(o or word in self.around.lower() for o, word in zip(own, words, strict=True))

    def rank(self, words: Sequence[str]) -> int:
        """Where the words are: 0 all in names, 1 some in the explanation, 2 some in the longer one alone."""
        named = [word in f"{self.names} {self.around}".lower() for word in words]
        said = [name or _begins(word, self.said) for name, word in zip(named, words, strict=True)]
        return 0 if all(named) else 1 if all(said) else 2

    def shown(self, words: Sequence[str]) -> Row:
        """The row, with the sentence of `more` that has a word which is nowhere else."""
        if self.rank(words) < 2:
            return self.row
        word = next(word for word in words if self.rank([word]) == 2)
        sentence = next((one for one in re.split(r"(?<=[.:;])\s+", self.more) if _begins(word, one)), "")
        return (*self.row[:-1], f"{self.row[-1]} [{textwrap.shorten(sentence, 150, placeholder=' ...')}]".strip())


def _begins(word: str, text: str) -> bool:
    return re.search(rf"(?<![^\W_]){re.escape(word)}", text, re.IGNORECASE) is not None


def _search(words: Sequence[str], groups: Mapping[str, Sequence[str]], config_dir: str | None) -> list[Row]:
    places = _places(groups, config_dir)
    asked = [word.lower() for word in words]
    found = [place for place in places if place.matches(asked)]
    if found:
        return [place.shown(asked) for place in sorted(found, key=lambda place: place.rank(asked))]
    absent = [word for word in words if not any(place.has(word.lower()) for place in places)]
    if not absent:
        raise UserError(f"{' '.join(words)}: each of these words is found somewhere, but nowhere all of them")
    raise UserError(
        f"{absent[0]}: found in no group, option, key or explanation{_meant(absent[0].lower(), places)}; fedsim list "
        "shows the groups"
    )


def _meant(word: str, places: Sequence[_Place]) -> str:
    """The name in whole that is much like a word, or else the nearest of all names and words."""
    whole = {name for place in places for name in (place.row[0], place.names if "=" in place.row[0] else place.row[0])}
    if near := difflib.get_close_matches(word, sorted(whole), n=1, cutoff=0.75):
        return did_you_mean(word, near)
    said = {part for place in places for part in re.findall(r"[a-z]\w+", f"{place.names} {place.said}".lower())}
    return did_you_mean(word, sorted(whole | said))


def _places(groups: Mapping[str, Sequence[str]], config_dir: str | None) -> list[_Place]:
    """Groups, options and keys, in this order, the keys outside all groups first of theirs."""
    options = {group: [one for name in groups[group] if (one := _read(group, name, config_dir))] for group in groups}
    explained = groups_explained(options)
    found = []
    for group, said in explained.items():
        said = said.rstrip(".") or f"a part of {group.rpartition('/')[0]}"
        found.append(_Place(group, "", said, (group, "", said)))
    for one in (one for several in options.values() for one in several):
        more = " ".join(one.prose.split())
        found.append(_Place(one.name, one.title, one.comment, (one.title, "", one.comment), more))
    top = top_level()
    keys: dict[Key, list[Option]] = {key: [top] for key in top.keys}
    for one in (one for several in options.values() for one in several if one.target is not None):
        for key in one.keys:
            keys.setdefault(key, []).append(one)
    for key, owners in keys.items():
        where = _where(owners)
        around = f"{key.name} {' '.join(one.title for one in owners)}"
        names = key.name.removeprefix(f"{owners[0].group.replace('/', '.')}.")
        found.append(_Place(names, around, key.meaning, (key.name, key.default, f"{key.meaning}{where}")))
    return found


def _read(group: str, name: str, config_dir: str | None) -> Option | None:
    """An option, or None with a warning if its file is broken: that of one option does not end a search in all."""
    try:
        return read_option(group, name, config_dir)
    except UserError as error:
        print_error(f"{error}; it is left out", "warning")
        return None


def _where(owners: Sequence[Option]) -> str:
    """Which options have a key, as `` (client/optimizer=adam,sgd)``."""
    if not owners[0].group:
        return ""
    names = ",".join(one.name for one in owners[:4])
    return f" ({owners[0].group}={names}{f' and {len(owners) - 4} more' if len(owners) > 4 else ''})"


# ---------------------------------------------------------------------------------------------------------------------


def _print(rows: Iterable[Row], heading: str | None = None) -> None:
    """Print rows in columns; in a pipe one line each, for grep."""
    rows = [tuple(_safe(text) for text in row) for row in rows]
    console = Console(highlight=False, emoji=False)
    if heading is not None:
        console.print(Text(_safe(heading), style="bold"))
    if console.is_terminal:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for number in range(len(rows[0]) if rows else 0):
            table.add_column(style="cyan" if number == 0 else None, no_wrap=number == 0, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
        columns = ([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]] for row in rows)
        console.out("\n".join("  ".join(column).rstrip() for column in columns))
    if heading is not None:
        console.print()


def _safe(text: str) -> str:
    """Text that this terminal can show and does not obey."""
    encoding = sys.stdout.encoding or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)
