"""What fedsim uses of aeon, which takes seconds to import."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from fedsim.caches import find_place_for_numba
from fedsim.errors import UserError


def aeon_folders() -> list[Path]:
    """The folders of aeon's own data sets, found without importing it."""
    found = importlib.util.find_spec("aeon")
    return [Path(place, "datasets", "data") for place in (found and found.submodule_search_locations) or ()]


def import_aeon(module: str) -> Any:
    """Import a module of aeon.

    Raises:
        UserError: if there is no folder in which Numba could keep what it compiles of aeon, which needs one.
    """
    places = aeon_folders()
    if places and not find_place_for_numba(places[0].parents[1]):
        raise UserError("aeon cannot be imported, as there is no folder to write to; set NUMBA_CACHE_DIR to one")
    return importlib.import_module(module)
