"""What is needed of two binary formats, read within bounds: protocol buffers and MessagePack.

Both readers look at bytes that may come from anybody. Nothing is allocated by a length that the bytes only declare, and
nothing nests deeper than a few levels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from fedsim.data.contents import FREE, RATIO, Bomb

_DEEPEST = 8
_FIXED = {1: 8, 5: 4}
"""Bytes of the wire types that always take as many."""


class BadMessageError(ValueError):
    """Bytes that are not a message of this kind; what is wrong with them."""


def inflate(data: bytes) -> bytes:
    """Unpack zlib data.

    Raises:
        BadMessageError: if they are damaged.
        Bomb: if they hold more than a packed file may.
    """
    most = max(FREE, RATIO * len(data))
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise BadMessageError(f"is not packed by zlib ({error})") from None
    if len(content) > most:
        raise Bomb(f"unpacks to more than {RATIO} times its size")
    if not stream.eof:
        raise BadMessageError("is packed by zlib, but ends too soon")
    return content


# ---------------------------------------------------------------------------------------------------------------------
# protocol buffers: https://protobuf.dev/programming-guides/encoding


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise BadMessageError("has a number without an end")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each field of a message that has a length; numbers are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, at = _varint(data, at)
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise BadMessageError(f"has a field of the unknown kind {kind}")
        if size > len(data) - at:
            raise BadMessageError("has a field that is longer than the message")
        if kind == 2:
            yield number, data[at : at + size]
        at += size


def example_bytes(data: bytes, name: str) -> bytes:
    """Return the one value of a feature of bytes in a ``tf.train.Example``.

    An Example has Features in field 1, these an entry per feature in field 1, which has its name in field 1 and the
    feature in field 2; of a feature, field 1 is a list of bytes, whose values are its fields 1
    (``tensorflow/core/example/{example,feature}.proto``).

    Raises:
        BadMessageError: if it is no such message, or the feature is missing or no single value.
    """
    found: list[bytes] = []
    for features in _of(1, data):
        for entry in _of(1, features):
            parts = dict(_fields(entry))
            if parts.get(1) == name.encode():
                found = [value for list_ in _of(1, parts.get(2, b"")) for value in _of(1, list_)]
    if len(found) != 1:
        raise BadMessageError(f"has {len(found)} values of {name!r}, instead of one")
    return found[0]


def _of(number: int, data: bytes) -> Iterator[bytes]:
    return (value for found, value in _fields(data) if found == number)


# ---------------------------------------------------------------------------------------------------------------------
# MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md

_NUMBERS = {0xCA: ">f", 0xCB: ">d"} | {0xCC + k: f">{letter}" for k, letter in enumerate("BHIQbhiq")}
_SIZES = {0xC4: "b1", 0xC5: "b2", 0xC6: "b4", 0xD9: "s1", 0xDA: "s2", 0xDB: "s4", 0xDC: "a2", 0xDD: "a4"}
_SIZES |= {0xDE: "m2", 0xDF: "m4", 0xC7: "x1", 0xC8: "x2", 0xC9: "x4"}


class Extension(bytes):
    """The content of an extension type, with its number."""

    kind: int


def unpack(data: bytes) -> Any:
    """Return what MessagePack data hold: numbers, texts as bytes, lists, mappings and `Extension`.

    Raises:
        BadMessageError: if they are damaged, too deep, or something follows.
    """
    value, at = _value(data, 0, 0)
    if at != len(data):
        raise BadMessageError("goes on behind its end")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise BadMessageError(f"has more than {_DEEPEST} lists and mappings within each other")
    code, at = _take(data, at, 1)[0], at + 1
    if code < 0x80 or code >= 0xE0:
        return code - 256 * (code >= 0xE0), at
    if code in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[code], at
    if code in _NUMBERS:
        size = struct.calcsize(_NUMBERS[code])
        return struct.unpack(_NUMBERS[code], _take(data, at, size))[0], at + size
    if code < 0xC0:  # the size is in the code itself
        kind = "m" if code < 0x90 else "a" if code < 0xA0 else "s"
        size = code & (0x0F if code < 0xA0 else 0x1F)
    elif 0xD4 <= code <= 0xD8:
        kind, size = "x", 1 << (code - 0xD4)
    elif code in _SIZES:
        kind, width = _SIZES[code][0], int(_SIZES[code][1])
        size, at = int.from_bytes(_take(data, at, width), "big"), at + width
    else:
        raise BadMessageError(f"has the unknown code {code}")
    if kind == "x":
        extension = Extension(_take(data, at + 1, size))
        extension.kind = data[at]
        return extension, at + 1 + size
    if kind in "bs":
        return _take(data, at, size), at + size
    items = []
    for _ in range(size * (1 + (kind == "m"))):  # each takes a byte at least, so it ends where the data do
        item, at = _value(data, at, depth + 1)
        items.append(item)
    if kind == "a":
        return items, at
    if any(isinstance(key, (list, dict)) for key in items[::2]):
        raise BadMessageError("has a mapping of lists or mappings")
    return dict(zip(items[::2], items[1::2], strict=True)), at


def _take(data: bytes, at: int, size: int) -> bytes:
    if size > len(data) - at:
        raise BadMessageError("ends too soon")
    return data[at : at + size]
