"""The JSON files that LEAF writes, and FedProx in the same form: read, checked and, if need be, split."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fedsim.data.contents import read_whole
from fedsim.errors import UserError

GAP = 79
"""Windows that LEAF leaves out between a Shakespeare role's training and test samples, but counts in num_samples."""
TWEET = 4
"""Place of the text in a Sent140 sample: id, date, query, user, text, which part of Sentiment140 it is from."""
CLASSES = 10
"""Of FedProx' synthetic data."""
_DATE = 1
_LARGEST = 1e30
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HOURS_TO_UTC = {"PDT": 7, "PST": 8, "UTC": 0, "GMT": 0}


@dataclass(frozen=True)
class User:
    """One user's samples and the file that they are from."""

    file: Path
    x: list[Any]
    y: list[Any]


Users = dict[str, User]


def find_files(path: str) -> tuple[tuple[Path, ...], tuple[Path, ...] | None]:
    """Return the files of training and of test users, or those of all users and None if they are not split.

    Raises:
        UserError: if there are none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return (place,), None
    train, test, here, whole = (
        tuple(sorted(folder.glob("*.json"))) for folder in (place / "train", place / "test", place, place / "all_data")
    )
    if train and test:
        return train, test
    if (train or test) or not (unsplit := here or whole):
        folder = place / ("test" if train else "train")
        more = "" if train or test else f", nor any that are not split in {place} and {place / 'all_data'}"
        raise UserError(f"data.path={path}: there are no JSON files in {folder}{more}")
    return unsplit, None


def read_users(files: tuple[Path, ...], path: str, kind: str, gap: int) -> Users:
    """Read and check all users of one part.

    Args:
        files: of the part.
        path: ``data.path`` as the user wrote it, for messages.
        kind: of the samples, a key of `SAMPLES`.
        gap: samples that ``num_samples`` may count although they are not there.

    Raises:
        UserError: if a file is not as LEAF writes it; names the file and the user.
    """
    users: Users = {}
    for file in files:
        where = f"data.path={path}: {file}"
        try:
            content = json.loads(read_whole(file))
            names, counts, data = content["users"], content["num_samples"], content["user_data"]
            listed = list(zip(names, counts, (data[name] for name in names), strict=True))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{where} is not a file of LEAF, with as many users as num_samples and user_data ({reason})"
            ) from error
        for name, count, samples in listed:
            user = f"{where}: user {name!r}"
            x, y = (samples.get(key) if isinstance(samples, dict) else None for key in "xy")
            if not (isinstance(name, str) and isinstance(x, list) and isinstance(y, list) and len(x) == len(y)):
                raise UserError(f"{user} must have a list x and a list y of the same length")
            if count not in (len(y), len(y) + gap):
                raise UserError(f"{user} has {len(y)} samples, but num_samples says {count}")
            if name in users:
                raise UserError(f"{user} is also in {users[name].file.name}")
            for place, pair in enumerate(zip(x, y, strict=True)):
                if not SAMPLES[kind](*pair):
                    raise UserError(f"{user}, sample {place}: is not a sample of {kind}: {str(pair)[:80]}")
            users[name] = User(file, x, y)
    return users


def cut(users: Users, kind: str, test_fraction: float, path: str) -> tuple[Users, Users, int]:
    """Split each user's samples by time, as LEAF's ``split_data.py`` splits Shakespeare by sample.

    Of n samples the first ``max(1, int((1 - test_fraction) n))`` train. Windows that share characters with training
    ones are left out. Tweets are put in the order of their dates first: the files have a user's unhappy ones before the
    happy ones.

    Returns:
        Training users, test users, and how many windows are left out.

    Raises:
        UserError: if a tweet's date cannot be read.
    """
    train: Users = {}
    test: Users = {}
    lost = 0
    for name, user in users.items():
        if kind == "sent140":
            times = [_time(tweet, user, name, path) for tweet in user.x]
            order = sorted(range(len(times)), key=times.__getitem__)
            user = replace(user, x=[user.x[k] for k in order], y=[user.y[k] for k in order])
        count = len(user.y)
        first = max(1, int((1 - test_fraction) * count)) if count > 1 else count
        gap = min(len(user.x[0]) - 1, count - first) if kind == "shakespeare" and count else 0
        lost += gap
        train[name] = replace(user, x=user.x[:first], y=user.y[:first])
        test[name] = replace(user, x=user.x[first + gap :], y=user.y[first + gap :])
    return train, test, lost


def _time(tweet: list[Any], user: User, name: str, path: str) -> datetime:
    """When a tweet was sent, in UTC. Not by `strptime`, whose names of months depend on the machine's language."""
    try:
        _, month, day, clock, zone, year = tweet[_DATE].split()
        hour, minute, second = map(int, clock.split(":"))
        local = datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second)
        return local + timedelta(hours=_HOURS_TO_UTC[zone])
    except (ValueError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(
            f"data.path={path}: {user.file}: user {name!r} has a tweet with the date {str(tweet[_DATE])[:40]!r}, by "
            "which it cannot be split; it must be like 'Mon Apr 06 22:19:45 PDT 2009'"
        ) from error


def _is_window(x: Any, y: Any) -> bool:
    return isinstance(x, str) and bool(x) and isinstance(y, str) and len(y) == 1


def _is_tweet(x: Any, y: Any) -> bool:
    text = isinstance(x, list) and len(x) > TWEET and isinstance(x[TWEET], str)
    return text and type(y) is int and y in (0, 1)


def _is_point(x: Any, y: Any) -> bool:
    numbers = isinstance(x, list) and bool(x) and all(type(v) in (int, float) and abs(v) <= _LARGEST for v in x)
    return numbers and type(y) in (int, float) and 0 <= y < CLASSES and math.floor(y) == y


def _is_text(x: Any, y: Any) -> bool:
    if isinstance(x, str):
        return True
    if not isinstance(x, list) or not x:
        return False
    if isinstance(x[0], str):
        return len(x) > TWEET and isinstance(x[TWEET], str)
    return all(isinstance(part, list) and all(isinstance(token, str) for token in part) for part in x)


KINDS = ("shakespeare", "sent140", "synthetic")
"""Of ``data=leaf``."""
SAMPLES: dict[str, Callable[[Any, Any], bool]] = {
    "shakespeare": _is_window,
    "sent140": _is_tweet,
    "synthetic": _is_point,
    "text": _is_text,
}
"""Whether a pair of x and y is a sample, by kind."""
