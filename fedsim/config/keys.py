"""What `fedsim.config.compose` says and compares, in plain Python."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import UserError


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{dotted key: value}``."""
    if not isinstance(node, Mapping) or not node:
        return {prefix[:-1]: node}
    return {k: v for key, child in node.items() for k, v in flat(child, f"{prefix}{key!s}.").items()}


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of `names` or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def in_words(error: BaseException | None) -> str:
    """An error and its causes in one line, without Hydra's and OmegaConf's hints for programmers."""
    texts = []
    while error is not None:
        text = " ".join(str(error).split("\nSet the environment")[0].split("\n    full_key:")[0].split())
        key = getattr(error, "full_key", None)
        texts.append(f"{key}: {text}" if key and key not in text else text)
        error = error.__cause__
    return ": ".join(dict.fromkeys(text for text in texts if text)) or "the config cannot be composed"


def check_config_dir(folder: Path, module: str) -> None:
    """Require a folder none of whose files has the name of fedsim's own, which Hydra would take instead."""
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: no such folder")
    for file in sorted(folder.rglob("*.yaml")):
        name = file.relative_to(folder).as_posix()
        if importlib.resources.files(module).joinpath(name).is_file():
            raise UserError(f"--config-dir {folder}: {name} has the name of one of fedsim's own; give it another")
