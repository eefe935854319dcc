"""Whose texts are whose, in the files that people have: plain text, tables, JSON lines, LEAF's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.data.download import fetch
from fedsim.data.leaf_files import TWEET, Users, cut, read_users
from fedsim.data.leaf_files import find_files as find_leaf_files
from fedsim.data.shakespeare import SHA256, URL
from fedsim.data.table_files import KINDS as TABLES
from fedsim.data.table_files import find_files as find_tables
from fedsim.data.table_files import read_file
from fedsim.data.table_text import TextFormat
from fedsim.data.text_clients import read_clients
from fedsim.errors import UserError, show

FORMS = ("auto", "text", "table", "leaf")
CLIENT_COLUMN, TEXT_COLUMN, TEST_FRACTION = "client", "text", 0.1
_NO_WORDS = {"<BOS>", "<EOS>", "<PAD>"}
_TABLE_ENDINGS = tuple(ending for kind in TABLES for ending in kind if ending != ".tsf")


@dataclass(frozen=True)
class Texts:
    """Each client's texts by its name.

    Attributes:
        train: of training, or all of them where `test` is None.
        test: of testing, or None if they are not split.
        notes: what was read and left out.
        tokens: whether words are separated by spaces already.
    """

    train: dict[str, list[str]]
    test: dict[str, list[str]] | None = None
    notes: tuple[str, ...] = ()
    tokens: bool = False


def read_texts(
    path: str | None,
    form: str,
    *,
    clients_by: str | None,
    chunk_size: int | None,
    layout: str,
    client_column: str | None,
    text_column: str | None,
    test_fraction: float | None,
    encoding: str,
) -> Texts:
    """Read the texts of a path; see `fedsim.data.words.Words` for the arguments.

    Raises:
        UserError: if the path cannot be read in this form, or an argument has no effect on it.
    """
    form = _form(path) if form == "auto" else form
    given = {"clients_by": clients_by, "client_column": client_column, "text_column": text_column}
    given["layout"] = None if layout == "auto" else layout
    effects = {"clients_by": "text", "layout": "text", "client_column": "table", "text_column": "table"}
    for name, value in given.items():
        if value is not None and effects[name] != form:
            raise UserError(
                f"data.{name}={value}: has an effect only with data.form={effects[name]}, and data.path={show(path)} "
                f"is read as {form}"
            )
    if form == "table":
        return _tables(path or "", client_column or CLIENT_COLUMN, text_column or TEXT_COLUMN, encoding)
    if form == "leaf":
        if encoding != "utf-8":
            raise UserError(f"data.encoding={encoding}: has no effect on LEAF's JSON files, which are UTF-8")
        return _leaf(path or "", test_fraction)
    if path is None:
        by_hand = "download it by hand, or take any text, and set data.path=FILE"
        path = str(fetch(URL, f"sha256:{SHA256}", "shakespeare", "tinyshakespeare.txt", by_hand))
    if clients_by is None:
        clients_by = "file" if Path(path).expanduser().is_dir() else "speaker"
    if layout != "auto" and clients_by != "speaker":
        raise UserError(f"data.layout={layout}: has an effect only with data.clients_by=speaker")
    clients, notes = read_clients(path, clients_by, chunk_size, layout, 0, encoding)
    return Texts(clients, notes=tuple(notes))


def _form(path: str | None) -> str:
    """What a path looks like."""
    if path is None:
        return "text"
    place = Path(path).expanduser()
    try:
        if not place.is_dir():
            names = [place.name]
        elif (place / "train").is_dir() and (place / "test").is_dir():
            return "leaf"
        else:
            names = [file.name for file in place.iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise UserError(f"data.path={path}: cannot be read ({error.strerror})") from None
    if any(name.lower().endswith(".json") for name in names):
        return "leaf"
    return "table" if any(name.lower().endswith(_TABLE_ENDINGS) for name in names) else "text"


def _tables(path: str, client_column: str, text_column: str, encoding: str) -> Texts:
    clients: dict[str, list[str]] = {}
    rows = empty = 0
    for path_of_file in find_tables(path):
        file = read_file(path_of_file, path, TextFormat(encoding=encoding), None)
        for key, name in (("client_column", client_column), ("text_column", text_column)):
            if name not in file.frame.columns:
                columns = ", ".join(map(repr, file.frame.columns[:10]))
                raise UserError(f"data.{key}={name}: {file.name} has no such column; it has {columns}")
        rows += len(file.frame)
        pairs = zip(file.frame[client_column].tolist(), file.frame[text_column].tolist(), strict=True)
        for row, (client, text) in enumerate(pairs):
            where = f"data.path={path}: {file.place(row)}"
            if _is_missing(client) or isinstance(client, (list, dict)):
                raise UserError(f"{where} has no client in the column {client_column!r} (data.client_column)")
            if _is_missing(text) or text == "":
                empty += 1
                continue
            if not isinstance(text, str):
                raise UserError(f"{where}: {str(text)[:40]!r} in the column {text_column!r} is not a text")
            clients.setdefault(str(client).strip(), []).append(text)
    notes = (f"left out {empty:,} of {rows:,} rows, which have no text (data.text_column)",) if empty else ()
    return Texts(clients, notes=notes)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _leaf(path: str, test_fraction: float | None) -> Texts:
    train, test = find_leaf_files(path)
    if test is not None and test_fraction is not None:
        raise UserError(
            f"data.test_fraction={test_fraction}: has an effect only with files that are not split, and "
            f"data.path={path} has train and test"
        )
    users = read_users(train, path, "text", 0)
    _refuse_windows(users, path)
    if test is None:
        dated = any(isinstance(x, list) and isinstance(x[0], str) for user in users.values() for x in user.x)
        trains, tests, _ = cut(users, "sent140" if dated else "text", test_fraction or TEST_FRACTION, path)
    else:
        trains, tests = users, read_users(test, path, "text", 0)
    notes: tuple[str, ...] = ()
    others = [name for name in tests if not (name in trains and trains[name].x)]
    if lost := sum(len(tests[name].x) for name in others):
        notes = (
            f"left out {lost:,} test samples of {len(others):,} users who have no training samples: split the files by "
            "sample",
        )
    nested = any(isinstance(x, list) and isinstance(x[0], list) for user in users.values() for x in user.x)
    texts = [{name: [_text(x) for x in user.x] for name, user in part.items()} for part in (trains, tests)]
    return Texts(texts[0], {name: own for name, own in texts[1].items() if name not in others}, notes, nested)


def _refuse_windows(users: Users, path: str) -> None:
    """Refuse LEAF's Shakespeare, whose samples are windows of characters."""
    pairs = [(x, y) for user in users.values() for x, y in zip(user.x, user.y, strict=True)]
    widths = {len(x) if isinstance(x, str) else 0 for x, _ in pairs}
    if (
        len(pairs) > 1
        and len(widths) == 1
        and 0 not in widths
        and all(isinstance(y, str) and len(y) == 1 for _, y in pairs)
    ):
        raise UserError(
            f"data.path={path}: the samples are windows of {widths.pop()} characters, each with the one that follows; "
            "data=leaf reads them"
        )


def _text(x: Any) -> str:
    """A sample's text: itself, that of a tweet, or the tokens of a comment, which LEAF cuts into pieces of ten."""
    if isinstance(x, str):
        return x
    if isinstance(x[0], str):
        return str(x[TWEET])
    return " ".join(token for part in x for token in part if token not in _NO_WORDS)
