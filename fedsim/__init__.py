"""fedsim: a federated-learning simulator for recurrent models that trains whole cohorts as stacked tensors.

From Python: `fedsim.run`, `fedsim.sweep` and `fedsim.load` (see `fedsim.api.run`), and `fedsim.UserError` and
`fedsim.Run`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_API = {"run": "fedsim.api.run", "sweep": "fedsim.api.run", "load": "fedsim.api.run", "Run": "fedsim.api.run"}
_API |= {"UserError": "fedsim.errors"}

__all__ = ["Run", "UserError", "__version__", "load", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """Import what is used from Python when it is asked for: the command starts without it."""
    if name not in _API:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    from fedsim.machine import let_threads_sleep

    let_threads_sleep()  # it has an effect if torch is not loaded yet
    return getattr(importlib.import_module(_API[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
