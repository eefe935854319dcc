"""Files downloaded once: complete and verified, or not there at all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fedsim.data.cache import cache_directories
from fedsim.errors import UserError

TIMEOUT = 30
"""Seconds to wait for an answer before a download fails."""

_log = logging.getLogger(__name__)


def fetch(url: str, known_hash: str, folder: str, name: str, by_hand: str) -> Path:
    """Return a file from the cache directory, downloaded if it is not there yet.

    The download goes to a temporary name in the same folder, is compared with `known_hash` and only then renamed. A
    file that is already there is compared too, so neither an interruption nor a damaged disk leaves a file that
    passes for complete.

    Args:
        url: where the file comes from.
        known_hash: the digest that it must have, ``sha256:...`` or ``md5:...``.
        folder: folder in the cache directory.
        name: name in that folder.
        by_hand: what to do instead of downloading; the end of the error message.

    Raises:
        UserError: if there is no network or no room, or the server has no such file or a different one; one line with
            the URL, the digest and `by_hand`.
    """
    places = [directory / folder / name for directory in cache_directories()]
    if not places:
        raise UserError(f"{url}: there is no folder to keep it in; set FEDSIM_CACHE_DIR, or {by_hand}")
    import pooch  # type: ignore[import-untyped]  # here because a file of the user's own needs none of it

    pooch.get_logger().setLevel(logging.WARNING)  # what it says at INFO goes to stderr, into the round table
    target = next((place for place in places if place.exists()), places[-1])
    if not target.exists():
        _log.info("downloading %s to %s", url, target)
    kind, _, digest = known_hash.partition(":")
    title = {"sha256": "SHA-256"}.get(kind, kind.upper())
    try:
        pooch.retrieve(
            url,
            known_hash,
            fname=name,
            path=target.parent,
            # Read in one piece: streamed, requests would leave the connection open after a failure.
            downloader=pooch.HTTPDownloader(progressbar=False, timeout=TIMEOUT, stream=False),
        )
    except (OSError, ValueError) as error:  # requests' exceptions are OSErrors; a wrong digest is a ValueError
        raise UserError(
            f"{url}: could not be downloaded to {target}, because {_reason(error, title)}; {by_hand} ({title} {digest})"
        ) from error
    return target


def fetch_json(url: str, by_hand: str) -> Any:
    """Return the JSON that a server sends.

    Raises:
        UserError: if there is no network or no such page; one line with the URL and `by_hand`.
    """
    import requests

    try:
        answer = requests.get(url, timeout=TIMEOUT)
        answer.raise_for_status()
        return answer.json()
    except requests.RequestException as error:
        raise UserError(f"{url}: could not be read, because {_reason(error)}; {by_hand}") from error


def _reason(error: Exception, title: str = "") -> str:
    """Say in a few words what went wrong."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"the server did not answer within {TIMEOUT} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the end"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    if isinstance(error, requests.RequestException):
        return f"of {type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return f"the folder cannot be written to ({error.strerror}; set FEDSIM_CACHE_DIR to use another)"
    return f"the file received is damaged or not the expected one: its {title} does not match"
