"""Where caches go if the usual place cannot be written to, as in a container without a home directory.

They go to a folder of this user's in the temporary folder, which one line says, or nowhere: then what they would have
kept is made anew. What is computed never depends on it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from fedsim.errors import print_error


def usual(variable: str, below_home: str) -> Path | None:
    """The folder in an environment variable such as ``XDG_CACHE_HOME``, or one below the home directory, if any.

    A relative folder in the variable is ignored, as the specification of these variables asks.
    """
    if os.path.isabs(named := os.environ.get(variable, "")):
        return Path(named)
    try:
        return Path.home() / below_home
    except RuntimeError:
        return None


def can_write(folder: Path | None) -> bool:
    """Whether files can be made in a folder, which need not exist yet."""
    if folder is None:
        return False
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    try:
        tempfile.TemporaryFile(dir=place).close()  # permissions alone do not say it, to root for one
    except OSError:
        return False
    return True


@cache
def temporary_folder() -> Path | None:
    """Return the folder for caches in the temporary folder, and say so once; None if there is no safe one.

    It must belong to this user and to nobody else, because what is read from it is run.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"fedsim-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        safe = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    except OSError:
        safe = False
    home = usual("XDG_CACHE_HOME", ".cache")
    why = "there is no home directory" if home is None else f"{home} cannot be written to"
    if not safe:
        _say(f"{why}, nor can the temporary folder: nothing is cached, so that every start takes some seconds longer")
        return None
    _say(f"{why}: caches go to {folder} (FEDSIM_CACHE_DIR and NUMBA_CACHE_DIR name other places)")
    return folder


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print_error(text, "warning")


def place_for_kernels(package: Path) -> Path | None:
    """The folder for a package's compiled kernels, or None if there is none that can be written to.

    That is where Numba would keep them: the folder in ``NUMBA_CACHE_DIR``, else the package's own for compiled code,
    else the user's for caches. Where none can be written to, `temporary_folder` takes their place.
    """
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        usable = Path(named) if can_write(Path(named)) else None
    else:
        home = usual("XDG_CACHE_HOME", ".cache")
        places = (package / "__pycache__", None if home is None else home / "fedsim" / "kernels")
        usable = next((place for place in places if can_write(place)), None)
    if usable is None and (folder := temporary_folder()) is not None:
        usable = folder / "kernels"
    return usable


def find_place_for_numba(package: Path) -> bool:
    """Let Numba keep what it compiles of a package's files in a folder that can be written to.

    Call it before the package is imported, for then Numba would end with an error.

    Returns:
        whether there is such a folder.
    """
    from numba.core import config

    if config.CACHE_DIR:
        if can_write(Path(config.CACHE_DIR)):
            return True
    elif can_write(package / "__pycache__") or can_write(usual("XDG_CACHE_HOME", ".cache")):
        return True
    folder = temporary_folder()
    if folder is not None:
        config.CACHE_DIR = str(folder / "numba")
    return folder is not None


def find_place_for_matplotlib() -> None:
    """Let Matplotlib keep its list of fonts in a folder that can be written to; it would warn at length."""
    if "MPLCONFIGDIR" not in os.environ and not can_write(usual("XDG_CONFIG_HOME", ".config")):
        folder = temporary_folder()
        if folder is not None:
            os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
