"""``system=profiles``: devices read from a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from fedsim import seeding
from fedsim.data.contents import read_whole
from fedsim.devices.clock import Fleet
from fedsim.devices.drawn import LARGEST
from fedsim.devices.system import Timed
from fedsim.errors import FieldError, UserError, did_you_mean

REQUIRED, OPTIONAL = ("gflops", "down_mbps", "up_mbps"), {"memory_mb": math.inf, "availability": 1.0}
NUMBERS = (*REQUIRED, *OPTIONAL)


class Profile(NamedTuple):
    """One line of the file.

    Attributes:
        line: the line number.
        client: name of the client, or None if the file names no clients.
        numbers: the values, in the order of `NUMBERS`.
    """

    line: int
    client: str | None
    numbers: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Profiles(Timed):
    """Devices from a CSV file with a row per device, commas between cells, and column names in the first line.

    Columns ``gflops``, ``down_mbps`` and ``up_mbps`` are required; without ``memory_mb`` memory is unlimited, and
    without ``availability`` every client is always online. The units are those of ``system=devices``.

    With a column ``client``, every client of the run must have a row with its name (other rows are ignored). Without
    it, row k belongs to client k if there are as many rows as clients. Otherwise rows are dealt to clients at random,
    by the seed: each to equally many clients, give or take one; if there are more rows than clients, some are unused.

    Attributes:
        path: the CSV file, in UTF-8.
    """

    path: str | None = None

    origin: ClassVar[str] = "read from the file"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise FieldError("path", self.path, "name a CSV with the columns gflops, down_mbps and up_mbps")

    def fleet(self, names: Sequence[str], seed: int) -> Fleet:
        """Read the file and deal its rows to the clients."""
        profiles = self.read()
        if profiles[0].client is not None:
            rows = self._by_name(profiles, names)
        elif len(profiles) == len(names):
            rows = [profile.numbers for profile in profiles]
        else:
            rng = seeding.generator(seed, "system.profiles")
            chosen = rng.permutation(len(profiles)) if len(profiles) > len(names) else np.arange(len(profiles))
            dealt = rng.permutation(np.resize(chosen, len(names)))
            rows = [profiles[place].numbers for place in dealt]
        return Fleet(*torch.tensor(rows, dtype=torch.float64).T.contiguous())

    def always_there(self) -> bool:
        """Whether every row of the file has availability 1."""
        place = NUMBERS.index("availability")
        return all(profile.numbers[place] == 1 for profile in self.read())

    def _by_name(self, profiles: list[Profile], names: Sequence[str]) -> list[tuple[float, ...]]:
        known = {profile.client: profile.numbers for profile in profiles if profile.client is not None}
        missing = [name for name in names if name not in known]
        if missing:
            more = f" (and for {len(missing) - 1} more of {len(names)})" if len(missing) > 1 else ""
            raise UserError(f"{self._file}: no row for client {missing[0]!r}{more}{did_you_mean(missing[0], known)}")
        return [known[name] for name in names]

    @property
    def _file(self) -> str:
        return f"system.path={self.path}"

    def read(self) -> list[Profile]:
        """Return the rows of the file, at least one.

        Raises:
            UserError: if the file cannot be read or a row is wrong; it names the file and the line.
        """
        try:
            # Read whole, so that decoding errors show before any row is parsed. A BOM is not part of a column's name.
            text = read_whole(Path(self.path or "").expanduser()).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self._file}: is not UTF-8 text (byte {error.start})") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise UserError(f"{self._file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        reader = csv.reader(text.splitlines(), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            self._check_header(header)
            profiles = [self._profile(reader.line_num, header, row) for row in reader if any(map(str.strip, row))]
        except csv.Error as error:
            raise UserError(f"{self._file}, line {reader.line_num}: {error}") from None
        if not profiles:
            raise UserError(f"{self._file}: has no rows")
        seen: dict[str, int] = {}
        for profile in profiles:
            if profile.client is not None and seen.setdefault(profile.client, profile.line) != profile.line:
                first = seen[profile.client]
                raise UserError(
                    f"{self._file}, line {profile.line}: client {profile.client!r} has a row already, in line {first}"
                )
        return profiles

    def _check_header(self, header: list[str]) -> None:
        known = ("client", *NUMBERS)
        if not any(header):
            raise UserError(f"{self._file}: is empty; its first line must name the columns {', '.join(REQUIRED)}")
        for name in header:
            if name not in known:
                raise UserError(
                    f"{self._file}, line 1: no such column {name!r}{did_you_mean(name, known)}; "
                    f"known: {', '.join(known)}"
                )
            if header.count(name) > 1:
                raise UserError(f"{self._file}, line 1: two columns {name!r}")
        if missing := [name for name in REQUIRED if name not in header]:
            raise UserError(f"{self._file}, line 1: no column {missing[0]!r}; required: {', '.join(REQUIRED)}")

    def _profile(self, line: int, header: list[str], row: list[str]) -> Profile:
        if len(row) != len(header):
            raise UserError(f"{self._file}, line {line}: {len(row)} cells in the place of {len(header)}")
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        client = cells.get("client")
        if client == "":
            raise UserError(f"{self._file}, line {line}, column client: is empty")
        numbers = tuple(self._number(line, name, cells[name]) if name in cells else OPTIONAL[name] for name in NUMBERS)
        return Profile(line, client, numbers)

    def _number(self, line: int, name: str, cell: str) -> float:
        largest = 1.0 if name == "availability" else LARGEST
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not 1 / LARGEST <= number <= largest:
            allowed = f"a number above 0 and at most {largest:g}"
            raise UserError(f"{self._file}, line {line}, column {name}: {cell!r} must be {allowed}")
        return number
