"""What optional features need, read from the installed package's own metadata, so that hints cannot go stale.

fedsim may be installed from a clone or from a wheel, and is on no index; a hint therefore names the requirements of
an extra themselves, which pip finds either way.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from fedsim.errors import UserError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "fedsim-rnn"
DEVELOPERS = ("test", "docs", "dev")
"""Extras for work on fedsim itself: no feature needs them."""


def extras() -> dict[str, list[str]]:
    """The extras that features need, each with its requirements; empty if fedsim is not installed but only on the path.

    Requirements are written as for pip, ``onnx>=1.16``; those for another Python or system are left out.
    """
    return {name: wanted for name, wanted in _all().items() if name not in DEVELOPERS}


def dependencies() -> list[str]:
    """What fedsim itself needs on this Python and system, as for pip; empty if it is not installed."""
    try:
        listed = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    parsed = (_parsed(text) for text in listed)
    return [_plain(one) for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


@cache
def _all() -> dict[str, list[str]]:
    try:
        listed = metadata.requires(DISTRIBUTION) or []
        names = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return {}
    parsed = [_parsed(text) for text in listed]
    return {name: [_plain(one) for one in parsed if _only_for(name, one)] for name in names}


def _parsed(text: str) -> Requirement:
    from packaging.requirements import Requirement  # here because whatever may give a hint would import it

    return Requirement(text)


def _only_for(extra: str, requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _plain(requirement: Requirement) -> str:
    inner = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{inner}{requirement.specifier}"


def require(what: str, extra: str, *modules: str) -> None:
    """Require that modules of an extra can be imported; a mere folder of that name, such as W&B makes, is none.

    Args:
        what: the setting that needs them, for the message.
        extra: what brings them.
        modules: their names.

    Raises:
        UserError: naming those that are missing, and the command that installs them.
    """
    found = [importlib.util.find_spec(module) for module in modules]
    absent = [module for module, spec in zip(modules, found, strict=True) if spec is None or spec.origin is None]
    if absent:
        raise UserError(f"{what}: needs {' and '.join(absent)}; {install_hint(extra)}")


def install_hint(extra: str) -> str:
    """How to install what an extra needs, for the end of a message.

    Args:
        extra: its name in pyproject.toml, such as ``onnx``.

    Returns:
        ``install with: python -m pip install 'onnx>=1.16' 'onnxruntime>=1.18' (the extra 'onnx')``.
    """
    wanted = _all().get(extra)
    if not wanted:  # run from the sources, without having been installed
        return f"install fedsim with its extra '{extra}'"
    return f"install with: {pip_install(wanted)} (the extra '{extra}')"


def pip_install(requirements: list[str]) -> str:
    """The command that installs some requirements, quoted for a shell."""
    quoted = (shlex.quote(text) if any(c in text for c in "<>[]!~") else text for text in requirements)
    return f"python -m pip install {' '.join(quoted)}"


def requirement(name: str) -> str:
    """What fedsim asks of a package in any of its extras, as for pip; the name alone if it asks nothing."""
    from packaging.utils import canonicalize_name

    wanted = (_parsed(text) for texts in _all().values() for text in texts)
    wanted_name = canonicalize_name(name)
    return next((str(one) for one in wanted if canonicalize_name(one.name) == wanted_name), name)


def missing(requirements: list[str]) -> list[str]:
    """Those of some requirements that no installed package meets."""
    return [text for text in requirements if not _met(_parsed(text))]


def _met(wanted: Requirement) -> bool:
    found = version(wanted.name)
    return found is not None and wanted.specifier.contains(found, prereleases=True)


def version(name: str) -> str | None:
    """The version of an installed package, or of the one that a requirement names; None if it is not installed."""
    try:
        return metadata.version(name if re.fullmatch(r"[\w.-]+", name) else _parsed(name).name)
    except metadata.PackageNotFoundError:
        return None
