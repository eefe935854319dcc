"""Plays: who says what, read from the layout whose names come back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedsim.data.play_heads import GAP, HEADING, LAYOUTS, Heads, find_heads


@dataclass(frozen=True)
class Play:
    """What was read from a play.

    Attributes:
        layout: a word of `LAYOUTS`.
        spoken: each role's speeches, in the order in which the roles first speak.
        once: names that come only once and were read as speech.
        size: characters of the text that are neither white space nor names.
        before: of these, those before the first name.
        between: of these, those from a heading of an act or a scene to the next name.
    """

    layout: str
    spoken: dict[str, list[str]]
    once: tuple[str, ...]
    size: int
    before: int
    between: int

    @property
    def kept(self) -> float:
        """The share of the text that some role says."""
        return 1 - (self.before + self.between) / max(self.size, 1)


class NoRoles(Exception):
    """The text is not a play, or not one that can be read; the message says what was found."""


def read_play(text: str, layout: str = "auto") -> Play:
    """Return who says what.

    ``auto`` takes the layout with the most heads whose names come back. There must be two names; two must come back, or
    nearly every paragraph must have a head; and the heads must be dense: in a quarter of the paragraphs or, if no blank
    lines are between speeches, in a twentieth of the lines. A layout that is given needs two heads. Text before the
    first head, and from the heading of an act or a scene to the next head, is nobody's.

    Raises:
        NoRoles: if there are no such heads, or less than half of the text would be kept.
    """
    found = {word: find_heads(text, word) for word in LAYOUTS if layout in ("auto", word)}
    if layout == "auto":
        good = {word: heads for word, heads in found.items() if _is_sure(text, word, heads)}
        if not good:
            raise NoRoles(_what_was_found(found))
        chosen = max(good, key=lambda word: sum(good[word].returning.values()))
    else:
        chosen = layout
        if len(found[chosen].taken) < 2:
            raise NoRoles(_what_was_found(found))
    play = _cut(text, chosen, found[chosen])
    if play.kept < 0.5:
        raise NoRoles(
            f"read as a play with {LAYOUTS[chosen].looks} ({names_and_counts(play.spoken)}), only {play.kept:.1%} of "
            "the text would be kept"
        )
    return play


def called(file: str, role: str, plays: Mapping[str, Play]) -> str:
    """Return a role's name among those of all files: with the file's, if there are several."""
    return f"{file}/{role}" if len(plays) > 1 else role


def describe(plays: Mapping[str, Play]) -> list[str]:
    """Say how plays, by their files' names, were read: layout, roles, what is kept, and what is not as it seems."""
    roles = {called(file, role, plays): parts for file, play in plays.items() for role, parts in play.spoken.items()}
    layouts = Counter(play.layout for play in plays.values())
    looks = [
        LAYOUTS[word].looks + (f" ({_number(n, 'file')})" if len(layouts) > 1 else "") for word, n in layouts.items()
    ]
    size = max(sum(play.size for play in plays.values()), 1)
    before, between = (sum(getattr(play, part) for play in plays.values()) / size for part in ("before", "between"))
    lost = {"before the first name": before, "between the heading of an act or scene and the next name": between}
    where = [f"{share:.1%} {place}" for place, share in lost.items() if share]
    what = "a play" if len(plays) == 1 else f"{len(plays)} plays"
    notes = [
        f"read as {what} with heads {' and '.join(looks)}: {_number(len(roles), 'role')} ({names_and_counts(roles)}), "
        f"{1 - before - between:.1%} of the text kept" + (f"; left out: {', '.join(where)}" if where else "")
    ]
    once = [name for play in plays.values() for name in play.once]
    if once:
        notes.append(
            "heads that come only once, and are long, start with a digit or may be sentences, were read as speech: "
            f"{len(once)} ({_few(once)})"
        )
    files = Counter(role for play in plays.values() for role in play.spoken)
    several = [role for role, n in files.items() if n > 1]
    if several:
        notes.append(
            f"{_number(len(several), 'name')} of several files ({_few(several)}): a client of its own in each file"
        )
    return notes


def _lines(number: int) -> str:
    return "1 line looks like a head" if number == 1 else f"{number} lines look like heads"


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def names_and_counts(spoken: dict[str, list[str]], most: int = 5) -> str:
    """Return the names with the most speeches and how many these are, as in ``ANN 12, BOB 7``."""
    counts = Counter({name: len(parts) for name, parts in spoken.items()})
    return ", ".join(f"{name} {n}" for name, n in counts.most_common(most))


def count_characters(parts: Iterable[str]) -> int:
    """How many characters are no white space."""
    return sum(len("".join(part.split())) for part in parts)


def _is_sure(text: str, word: str, heads: Heads) -> bool:
    """Whether the heads come back often enough, and densely enough, to be those of a play."""
    taken, back = heads.taken, heads.returning
    if len({head.name for head in taken}) < 2 or (
        word == "colon" and 5 * sum(not head.alone for head in taken) < len(taken)
    ):
        return False
    body = text[taken[0].start :]
    paragraphs = len(re.findall(rf"(?:\A|\n{GAP}*\n)\s*\S", body))
    headed = sum(head.after_blank for head in taken)
    if 2 * headed >= len(taken):
        dense = 4 * headed >= paragraphs
    else:
        dense = 20 * len(taken) >= sum(1 for line in body.split("\n") if line.strip())
    whole = 10 * headed >= 9 * paragraphs and (word == "colon_line" or bool(back))
    return whole or (len(back) > 1 and dense)


def _cut(text: str, word: str, heads: Heads) -> Play:
    taken = heads.taken
    inside = {head.start for head in taken}
    headings = [match.start() for match in HEADING.finditer(text) if match.start() not in inside]
    spoken: dict[str, list[str]] = {}
    between = 0
    ends = [head.start for head in taken[1:]] + [len(text)]
    at = 0
    for head, end in zip(taken, ends, strict=True):
        while at < len(headings) and headings[at] < head.end:
            at += 1
        stop = headings[at] if at < len(headings) and headings[at] < end else end
        between += count_characters([text[stop:end]])
        parts = spoken.setdefault(head.name, [])
        if part := text[head.end : stop].strip():
            parts.append(part)
    size = count_characters([text]) - count_characters(text[head.start : head.end] for head in taken)
    return Play(word, spoken, tuple(heads.once), size, count_characters([text[: taken[0].start]]), between)


def _what_was_found(found: dict[str, Heads]) -> str:
    """Say what was nearest to a layout of a play."""

    def near(word: str) -> tuple[int, int]:
        return sum(found[word].returning.values()), len(found[word].taken) + len(found[word].once)

    word = max(found, key=near)
    back, total = found[word].returning, near(word)[1]
    if not total:
        return "no line looks like the name of a role"
    names = [*back, *dict.fromkeys(head.name for head in found[word].taken if head.name not in back), *found[word].once]
    comes = {0: "no name comes back", 1: "only one name comes back"}.get(len(back), "these are too few for a play")
    return f"{_lines(total)} of the form {LAYOUTS[word].looks} ({_few(names)}), but {comes}"
