"""The YAML files of a user's folder, which may be a stranger's: checked before Hydra reads them.

They are data. They do not read the environment, they do not grow when aliases or interpolations are followed, and
they have an end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from antlr4 import ParserRuleContext
from omegaconf import grammar_parser
from omegaconf.errors import GrammarParseError

from fedsim.config.keys import texts
from fedsim.errors import UserError
from fedsim.yaml_bounds import check_yaml, read_bounded

RESOLVERS = ("now", "oc.select", "oc.dict.keys", "oc.dict.values", "oc.deprecated")
"""What a file may call in an interpolation: the time, and what looks up other keys. All others read the machine, such
as ``oc.env``, or make values that no check has seen, such as ``oc.decode``."""

LARGEST = 1_000_000
"""Characters that all values of a config may have together once their interpolations are resolved."""


def check_file(path: Path) -> None:
    """Raise `UserError` for a file that has no end, grows without bound, or reads the machine."""
    for text in check_yaml(read_bounded(path), str(path)):
        if "${" in text:
            check_resolvers(text, str(path))


def check_resolvers(text: str, where: str) -> None:
    """Raise `UserError` if a text of a file calls a resolver other than `RESOLVERS`."""
    for name in _resolvers(text):
        if name not in RESOLVERS:
            raise UserError(
                f"{where}: ${{{name}:...}}: a file may not read the environment or the machine; allowed are keys, such "
                f"as ${{model.hidden_size}}, and {', '.join(RESOLVERS)}; on a command line any value can be given, "
                'such as name="$USER"'
            )


@lru_cache(maxsize=4096)
def _resolvers(text: str) -> list[str]:
    """The names of the resolvers that a text calls, as written; one that is itself an interpolation is among them."""
    try:
        tree = grammar_parser.parse(text)
    except GrammarParseError:  # no value at all, which is reported when it is composed
        return []
    return [node.resolverName().getText() for node in _below(tree) if hasattr(node, "resolverName")]


def _below(tree: Any) -> Iterator[Any]:
    yield tree
    if isinstance(tree, ParserRuleContext):
        for child in tree.getChildren():
            yield from _below(child)


_PLAIN = re.compile(r"\$\{([^${}:]*)\}")


def check_growth(content: Mapping[str, Any]) -> None:
    """Raise `UserError` if the values of a config grow beyond `LARGEST` once interpolations are resolved.

    Each value's size is its own length and those of what it refers to. A reference whose key is itself interpolated
    is taken to be to the largest of the values without such references, as often as these references can nest.

    Args:
        content: a composed config, not resolved.
    """
    leaves = dict(texts(content))
    sizes: dict[str, float] = {}
    dynamic = {key: text.count("${") - len(_PLAIN.findall(text)) for key, text in leaves.items()}

    def size(key: str) -> float:
        if key not in sizes:
            sizes[key] = 0.0  # for a circle, which is reported when it is resolved
            below = [leaf for leaf in leaves if leaf.startswith(f"{key}.")] if key not in leaves else []
            text = leaves.get(key, "")
            targets = [*below, *(_absolute(name, key) for name in _PLAIN.findall(text))]
            sizes[key] = len(text) + sum(size(target) for target in targets)
        return sizes[key]

    try:
        own = {key: size(key) for key, text in leaves.items() if "${" in text}
    except RecursionError:
        own = {"": math.inf}
    nested = math.prod(1.0 + count for count in dynamic.values())
    for key, number in own.items():
        if number * nested > LARGEST:
            raise UserError(f"{key}: grows beyond {LARGEST:,} characters when its interpolations are resolved")


def _absolute(name: str, key: str) -> str:
    """The dotted key that an interpolation in the value of `key` refers to."""
    name = re.sub(r"\[([^\]]*)\]", r".\1", name.strip())
    bare = name.lstrip(".")
    up = len(name) - len(bare)
    return ".".join([*key.split(".")[:-up], bare]) if up else bare
