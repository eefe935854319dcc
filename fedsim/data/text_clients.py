"""Whose text is whose in a text file or a folder of them: a client per role, per file, or per so many characters."""

from __future__ import annotations

from pathlib import Path

from fedsim.data.plays import NoRoles, Play, called, count_characters, describe, read_play
from fedsim.data.text_files import read_text, without_licence
from fedsim.errors import UserError

DEFAULT_CHUNK = 10_000
"""Characters of a client where ``data.chunk_size`` is not set."""


def read_clients(
    path: str,
    clients_by: str,
    chunk_size: int | None = None,
    layout: str = "auto",
    min_speeches: int = 1,
    encoding: str = "utf-8",
) -> tuple[dict[str, list[str]], list[str]]:
    """Read the files of a path.

    Args:
        path: ``data.path`` as the user wrote it.
        clients_by: ``speaker``, ``file`` or ``chunk``; see `fedsim.data.text.Text` for this and what follows.
        chunk_size: characters per client, or None for `DEFAULT_CHUNK`.
        layout: how a play names who speaks.
        min_speeches: roles with fewer speeches are left out.
        encoding: of the files.

    Returns:
        Each client's texts by its name (its speeches; else one text), and notes on what was read and left out.

    Raises:
        UserError: if the path cannot be read as text or, for ``clients_by=speaker``, as a play.
    """
    files = _files(path)
    contents, notes = {}, []
    cut = 0
    for file in files:
        contents[file.name], licence = without_licence(read_text(file, path, encoding))
        cut += licence
        if not contents[file.name].strip():
            raise UserError(f"data.path={path}: {file} is empty between Project Gutenberg's marks")
    if cut:
        notes.append(f"cut off {cut:,} characters of Project Gutenberg's licence and notices")
    if clients_by == "file":
        return {name: [text] for name, text in contents.items()}, notes
    texts: dict[str, list[str]] = {}
    if clients_by == "chunk":
        size = chunk_size or DEFAULT_CHUNK
        for name, text in contents.items():
            prefix = f"{name}/" if len(files) > 1 else ""
            texts |= {f"{prefix}chunk_{i // size}": [text[i : i + size]] for i in range(0, len(text), size)}
        return texts, notes
    plays = {name: _play(path, name, text, layout) for name, text in contents.items()}
    notes += describe(plays)
    roles = {called(name, role, plays): parts for name in plays for role, parts in plays[name].spoken.items()}
    texts = {name: parts for name, parts in roles.items() if len(parts) >= min_speeches}
    if len(texts) < len(roles):
        lost = count_characters(part for name, parts in roles.items() if name not in texts for part in parts)
        notes.append(
            f"left out {len(roles) - len(texts)} of {len(roles)} roles, which have fewer than "
            f"data.min_speeches={min_speeches} speeches: {lost / sum(p.size for p in plays.values()):.1%} of the text"
        )
    if not texts:
        most = max(map(len, roles.values()))
        raise UserError(f"data.min_speeches={min_speeches}: no role has that many speeches; the most is {most}")
    return texts, notes


def _play(path: str, name: str, text: str, layout: str) -> Play:
    try:
        return read_play(text, layout)
    except NoRoles as error:
        raise UserError(
            f"data.path={path}: {name}: {error}; for a text without roles, set data.clients_by=chunk (a client per "
            "data.chunk_size characters) or file (a client per file)"
            + ("; for a play, data.layout" if layout == "auto" else "")
        ) from error


def _files(name: str) -> list[Path]:
    path = Path(name).expanduser()
    try:
        if not path.is_dir():
            return [path]
        files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    except OSError as error:
        raise UserError(f"data.path={name}: cannot be read ({error.strerror})") from error
    if not files:
        raise UserError(f"data.path={name}: the folder has no files directly in it")
    return files
