"""The heads of speeches in the usual layouts of plays: the lines, or their beginnings, that name who speaks."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

GAP = r"[^\S\n]"
_INSIDE = rf"(?:[^()\[\]\n]|\n(?!{GAP}*\n)){{0,300}}"
_DIRECTIONS = rf"(?:{GAP}*(?:\({_INSIDE}\)|\[{_INSIDE}\]))*"
_TITLE = r"(?:(?i:mrs?|ms|mme|mlle|dr|st|col|gen|rev|prof|lt|sgt)|[^\W\d_]|\d{1,2})\."
_WORD = r"[^\W_](?:[^\W_]|['\u2019&-])*"
_LARGE = r"(?:(?![a-z\u00df-\u00f6\u00f8-\u00ff])[^\W_])"
_LARGE_WORD = (
    rf"(?:(?:and|of|the|to|in|with|from|de|von|van)\b|(?:Ma?c)?{_LARGE}(?:{_LARGE}|['\u2019&-])*(?:st|nd|rd|th)?)"
)


def _words(word: str) -> str:
    return rf"(?:{_TITLE}{GAP}+)*{word}(?:{GAP}+(?:&{GAP}+|{_TITLE}{GAP}+)*{word}){{0,7}}"


_WORDS = _words(_WORD)
_MARK = r"[_*=]{1,2}"

HEADING = re.compile(
    rf"^{GAP}*[_*=\[]*(?:ACT|Act|SCENE|Scene|ACTUS|Actus|SCENA|Scena|CHAPTER|Chapter){GAP}+"
    r"(?:[IVXLC]+|\d+|(?i:one|two|three|four|five|six|first|second|third|fourth|fifth|prim(?:us|a)))"
    rf"[_*=\]]*(?:{GAP}*$|[.:,;—–-][^\n]*$)",
    re.MULTILINE,
)
_SMALL_WORDS = re.compile(r"\b(?:and|of|the|to|a|in|with|from|de|von|van|Mc|Mac|\d+(?:st|nd|rd|th))\b|\bMc(?=[A-Z])")
_NUMERAL = re.compile(r"X{0,3}(?:IX|IV|V?I{0,3})")
_DIRECTION = re.compile(
    r"(?i:enter|exit|exeunt|re-?enter|aside|curtain|end|finis|acts?|actus|scen[ea]s?|chapter|pause|silence|dramatis|persons"
    r"|contents|int|ext|cut|fade|dissolve)\b"
)
"""Begins a stage direction or a heading."""
_NOBODY = re.compile(r"(?i:mrs?|ms|mme|mlle|dr|st|yes|no|oh|ah|why)")
"""Begins a line, with a full stop after it, and is nobody's name."""

_LONG = 40
_MOST_CAPITALS = 0.9


@dataclass(frozen=True)
class Layout:
    """How a play marks who speaks.

    Attributes:
        looks: for messages.
        pattern: finds a head, with the groups ``name`` and, if the speech may follow on the line, ``rest``.
        capitals: True: only names in capitals; False: only others; None: whatever most of the heads are.
    """

    looks: str
    pattern: re.Pattern[str]
    capitals: bool | None = None


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"^{GAP}*{pattern}", re.MULTILINE)


_AFTER = rf"(?:{GAP}+(?=\S)|{GAP}*$)"
LAYOUTS = {
    "colon_line": Layout(
        "'NAME:' on a line of its own", re.compile(rf"^(?P<name>[^\W_][^\n:]{{0,99}}):{GAP}*$", re.MULTILINE)
    ),
    "colon": Layout("'NAME: speech'", _compiled(rf"(?P<name>{_WORDS}\.?){_DIRECTIONS}{GAP}*:{_AFTER}")),
    "capitals_dot": Layout(
        "'NAME.' in capitals", _compiled(rf"(?P<name>{_words(_LARGE_WORD)}){_DIRECTIONS}\.(?!\.){_AFTER}"), True
    ),
    "dot": Layout("'Name.'", _compiled(rf"(?P<name>{_WORDS}){_DIRECTIONS}\.(?!\.){_AFTER}"), False),
    "capitals": Layout(
        "'NAME' in capitals without a mark",
        _compiled(rf"(?P<name>{_WORDS}){_DIRECTIONS}(?:{GAP}*$|(?:{GAP}{{2,}}|\t)(?=\S))"),
        capitals=True,
    ),
    "dash": Layout("'Name.--'", _compiled(rf"(?P<name>{_WORDS})[.:]?{_DIRECTIONS}[.:]?(?<=[.:])(?:--+|[—–])")),
    "italic": Layout(
        "'_Name._'",
        _compiled(
            rf"{_MARK}(?P<name>{_WORDS}){_DIRECTIONS}"
            rf"(?:[.:]{_MARK}{_DIRECTIONS}[.:]?|{_MARK}{_DIRECTIONS}(?:[.:]|(?={GAP}*$)))(?:--+|[—–])?"
        ),
    ),
}
"""By the word that chooses each."""


class Head(NamedTuple):
    """A line, or the beginning of one, that may say who speaks next.

    Attributes:
        start: where the head begins in the text.
        end: where the speech begins.
        name: without stage directions.
        alone: whether the speech begins on a line below.
        after_blank: whether no line, or a blank one, is above.
        before_blank: whether a blank line follows.
        indent: characters before it on its line.
    """

    start: int
    end: int
    name: str
    alone: bool
    after_blank: bool
    before_blank: bool
    indent: int

    @property
    def odd(self) -> bool:
        """Whether it is taken for a name only if it comes back: a long one, or one that starts with a digit."""
        return len(self.name) > _LONG or self.name[0].isdigit()


class Heads(NamedTuple):
    """The heads of a text in one layout.

    Attributes:
        taken: those that name a role, in order.
        once: names that come only once and were read as speech.
    """

    taken: list[Head]
    once: list[str]

    @property
    def returning(self) -> dict[str, int]:
        """How often each name comes that comes more than once, the most frequent first."""
        return {name: n for name, n in Counter(head.name for head in self.taken).most_common() if n > 1}


def find_heads(text: str, word: str) -> Heads:
    """Return the heads in a layout: those at the usual place, whose names come back or cannot be mistaken."""
    layout = LAYOUTS[word]
    lines = word == "colon_line"
    seen = [head for match in layout.pattern.finditer(text) if (head := _head(text, match, lines)).name]
    others: list[Head] = []
    if not lines:
        named = [head for head in seen if _may_be_a_name(head.name)]
        seen = _in_case(layout, named)
        others = _others_among_capitals(seen, named) if word == "capitals" else []
    capitals = bool(seen) and not lines and all(_in_capitals(head.name) for head in seen)
    counts = Counter(head.name for head in seen)
    usual = [head for head in seen if counts[head.name] > 1 and not lines] or seen
    alone = [head for head in usual if head.alone]
    if 2 * sum(head.after_blank for head in usual) >= len(usual):
        firm = Counter(head.name for head in seen if head.after_blank) if capitals else Counter[str]()
        seen = [head for head in seen if head.after_blank or firm[head.name] > 1]
    if not lines and 2 * sum(not head.before_blank for head in alone) >= len(alone):
        seen = [head for head in seen if not (head.alone and head.before_blank)]
        others = [head for head in others if not head.before_blank]
    seen = sorted([*seen, *others])
    counts = Counter(head.name for head in seen)
    if word == "dot":  # "Never." may begin lines often, but stands within them more often than a role's name does
        inside = Counter(re.findall(r"[^\W_]+(?=\.)", text))
        counts = Counter({name: n for name, n in counts.items() if 2 * n >= inside[name]})
    first = next((head.start for head in seen if counts[head.name] > 1), 0)
    taken, once = [], []
    for head in seen:
        title = head.alone and head.start < first and not lines
        if counts[head.name] > 1 or ((lines or capitals) and counts[head.name] and not head.odd and not title):
            taken.append(head)
        elif counts[head.name] and head.start > first:
            once.append(head.name)
    return Heads(taken, once)


def _head(text: str, match: re.Match[str], lines: bool) -> Head:
    start, end = match.start(), match.end()
    name = match["name"].strip()
    if not lines or "(" in name or "[" in name:
        name = " ".join(re.sub(r"\([^()]*\)|\[[^\[\]]*\]", " ", name).split())
    stop = text.find("\n", end + 1)
    below = text[end:] if stop < 0 else text[end:stop]
    alone = text[end : end + 1] in ("", "\n")
    above = text[text.rfind("\n", 0, start - 1) + 1 : start] if start else ""
    return Head(start, end, name, alone, not above.strip(), alone and not below.strip(), match.start("name") - start)


def _may_be_a_name(name: str) -> bool:
    return (
        not _DIRECTION.match(name)
        and not _NOBODY.fullmatch(name)
        and (name[0].isupper() or name[0].isdigit())
        and not _NUMERAL.fullmatch(name)
        and any(c.isalpha() for c in name)
    )


def _in_capitals(name: str) -> bool:
    letters = _SMALL_WORDS.sub("", name)
    return letters == letters.upper() and any(c.isalpha() for c in letters)


def _is_title(name: str) -> bool:
    """Whether its words begin with capitals, as those of a name do."""
    return all(word[0].isupper() or not word[0].isalpha() for word in _SMALL_WORDS.sub("", name).split())


def _in_case(layout: Layout, heads: list[Head]) -> list[Head]:
    """Keep the heads in capitals, or those of which some are not."""
    large = [head for head in heads if _in_capitals(head.name)]
    if layout.capitals is False:
        return [head for head in heads if not _in_capitals(head.name) and _is_title(head.name)]
    if layout.capitals is None:
        counts = Counter(head.name for head in heads)
        back = [head for head in heads if counts[head.name] > 1]
        if sum(_in_capitals(head.name) for head in back) < _MOST_CAPITALS * len(back):
            return heads
    return large


def _others_among_capitals(capitals: list[Head], named: list[Head]) -> list[Head]:
    """Return the names such as First Citizen among CORIOLANUS: they come back, at the same place as most capitals."""
    if 2 * sum(head.after_blank for head in capitals) < max(len(capitals), 1):
        return []
    place, _ = Counter((head.indent, head.before_blank) for head in capitals).most_common(1)[0]
    alike = [
        head
        for head in named
        if head.alone and head.after_blank and (head.indent, head.before_blank) == place and _is_title(head.name)
    ]
    counts = Counter(head.name for head in alike)
    return [head for head in alike if counts[head.name] > 1 and not _in_capitals(head.name)]
