"""Torch, imported when something of it is first used: what only reads settings answers a second sooner without it.

`importlib.util.LazyLoader` would do, were it not for two things: a second ``import torch`` loads its module at once,
and ``import torch.nn`` while torch is not loaded yet runs ``torch.nn`` twice.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_lock = threading.RLock()
_loading: set[str] = set()


def postpone(name: str) -> None:
    """Let ``import name`` make a package that is loaded when one of its attributes is first read.

    For the command alone, before anything else is imported: whoever uses fedsim from Python gets the module that they
    import. Nothing changes if the package is loaded already, or if there is none, which the first import reports.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return
    module = module_from_spec(spec)
    del module.__path__  # so that the import of one of its modules asks for it, which loads it
    module.__class__ = _Postponed
    sys.modules[name] = module


def load(name: str) -> None:
    """Load a package now and not in the middle of something, whether it was postponed or not."""
    getattr(importlib.import_module(name), "__version__", None)  # any of its attributes would do


class _Postponed(ModuleType):
    """A package that is not loaded yet, and turns into an ordinary one when it is."""

    def __getattr__(self, name: str) -> Any:
        with _lock:  # another thread that asks meanwhile waits
            if self.__name__ in _loading:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
            if type(self) is _Postponed:
                self._load()
                if name == "__path__":
                    sys.meta_path.insert(0, _Loaded(self.__name__))
        return getattr(self, name)

    def _load(self) -> None:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self.__path__ = list(spec.submodule_search_locations or ())
        _loading.add(self.__name__)
        try:
            spec.loader.exec_module(self)
        except BaseException:
            del self.__path__
            sys.modules.pop(self.__name__, None)
            raise
        finally:
            _loading.discard(self.__name__)
        self.__class__ = ModuleType  # type: ignore[assignment]  # from here on nothing is slower than usual


class _Loaded(MetaPathFinder, Loader):
    """Used once, for the import of a package's module that has loaded the package: that module may be there by now."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._spec: ModuleSpec | None = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        sys.meta_path.remove(self)
        if not name.startswith(f"{self._package}.") or name not in sys.modules:
            return None
        self._spec = sys.modules[name].__spec__
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
