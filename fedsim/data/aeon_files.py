"""What fedsim uses of aeon, which takes seconds to import."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from fedsim.caches import find_place_for_numba
from fedsim.errors import UserError
from fedsim.extras import require


def aeon_folders() -> list[Path]:
    """The folders of aeon's own data sets, found without importing it."""
    found = importlib.util.find_spec("aeon")
    return [Path(place, "datasets", "data") for place in (found and found.submodule_search_locations) or ()]


def import_aeon(module: str, what: str) -> Any:
    """Import a module of aeon.

    Args:
        module: its name.
        what: the setting that needs it, for the message.

    Raises:
        UserError: if aeon is not installed, or there is no folder in which Numba could keep what it compiles of it.
    """
    require(what, "ucr", "aeon")
    places = aeon_folders()
    if places and not find_place_for_numba(places[0].parents[1]):
        raise UserError("aeon cannot be imported, as there is no folder to write to; set NUMBA_CACHE_DIR to one")
    return importlib.import_module(module)
