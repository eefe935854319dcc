"""Turn plain data into checked components.

A config is data, not code. Every mapping with a ``_target_`` becomes the frozen dataclass of that name, and only if
that class belongs to fedsim or to a module that the user named on the command line (``--allow-module``).
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from fedsim.errors import FieldError, UserError, did_you_mean, show

MAX_INT, MAX_SEED = 2**31 - 1, 2**63 - 1
"""The largest whole numbers of any setting and of a seed: products of two settings fit 64 bits."""

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def build(node: Mapping[str, Any], expected: Any, key: str = "", allowed: Sequence[str] = ()) -> Any:
    """Build the dataclass that a mapping describes, its parts first.

    Args:
        node: values by field name, perhaps with a ``_target_``.
        expected: the class, protocol or union of them that the result must be an instance of.
        key: where the mapping stands in the config, for messages.
        allowed: modules besides fedsim whose dataclasses may be named.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    cls: Any = _class_of(node, expected, key, allowed)
    try:
        hints = _hints(cls)
    except NameError as error:  # imported for type checkers only
        raise UserError(f"{key}._target_={node.get('_target_')}: is not a component ({error})") from None
    if any(typing.get_origin(hint) is typing.ClassVar and not hasattr(cls, name) for name, hint in hints.items()):
        raise UserError(f"{key}: {cls.__name__} is only the base of components; choose one of them")
    if unwritten := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UserError(
            f"{key}: {cls.__name__} is only the base of components, as it has no {' and no '.join(unwritten)}; choose "
            "one of them"
        )
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    given = {}
    for name, value in node.items():
        path = f"{key}.{name}" if key else str(name)
        if name == "_target_":
            continue
        if name not in fields:
            if not fields:
                raise UserError(f"{path}={show(value)}: no such key, as {cls.__name__} has none; see fedsim list {key}")
            known = ", ".join(fields)
            raise UserError(f"{path}={show(value)}: no such key{did_you_mean(str(name), fields)}; known: {known}")
        given[name] = _field(value, hints[name], path, allowed)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            option = "" if is_plain(hints[name]) else f"; choose an option with {_slashes(key, name)}=OPTION"
            raise UserError(f"{key}.{name}: is missing{option}" if key else f"{name}: is missing{option}")
    try:
        built = cls(**given)
    except FieldError as error:
        raise UserError(f"{key}.{error!s}" if key else str(error)) from None
    except ValueError as error:  # how somebody else's component may say the same
        raise UserError(f"{key}: {error}" if key else str(error)) from None
    if not isinstance(built, expected):
        raise UserError(f"{key}: {cls.__name__} is not a {getattr(expected, '__name__', expected)}")
    return built


@cache
def _hints(cls: type[object]) -> dict[str, Any]:
    """The types of a class's annotations, its bases' included; finding them takes longer than to build one."""
    return typing.get_type_hints(cls)


def _class_of(node: Mapping[str, Any], expected: Any, key: str, allowed: Sequence[str]) -> type[Any]:
    target = node.get("_target_")
    if target is not None:
        return _resolve_target(str(target), key, ("fedsim", *allowed))
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        return expected
    raise UserError(f"{key}: has no _target_; choose an option with {key.replace('.', '/')}=OPTION")


def _field(value: Any, hint: Any, path: str, allowed: Sequence[str]) -> Any:
    if is_plain(hint):
        return convert(path, value, hint)
    if value is None and type(None) in typing.get_args(hint):
        return None
    if isinstance(value, Mapping):
        return build(value, hint, path, allowed)
    option = path.replace(".", "/")
    if isinstance(value, str) and option != path:
        raise UserError(
            f"{path}={value}: did you mean {option}={value}? (a slash selects an option, a dot sets a number)"
        )
    if dataclasses.is_dataclass(hint):
        keys = ", ".join(f"{path}.{field.name}" for field in dataclasses.fields(hint))
        raise UserError(f"{path}={show(value)}: is not a value but a group of keys: {keys}")
    raise UserError(f"{path}={show(value)}: choose an option with {option}=OPTION")


def _slashes(key: str, name: str) -> str:
    return f"{key}.{name}".strip(".").replace(".", "/")


# ---------------------------------------------------------------------------------------------------------------------
# values


def is_plain(hint: Any) -> bool:
    """Whether a field holds numbers, words, or lists and mappings of them, rather than a component."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, list, dict):
        return all(is_plain(argument) for argument in typing.get_args(hint))
    return hint in (int, float, str, bool, type(None), Any)


def convert(key: str, value: Any, hint: Any) -> Any:
    """Convert one plain value to a field's type, never at a loss: no ``8.5`` for a whole number, no ``2`` for a bool.

    Raises:
        UserError: naming the key, the value and what is allowed.
    """
    try:
        converted = _converted(value, hint)
    except (ValueError, TypeError):
        raise UserError(f"{key}={show(value)}: must be {_wanted(hint)}") from None
    except OverflowError:  # a whole number that no float can hold, or an infinite whole number
        raise UserError(f"{key}={show(value)}: must be {_wanted(hint)} within the range of numbers") from None
    largest = MAX_SEED if key.split(".")[-1] == "seed" else MAX_INT
    for number in converted if isinstance(converted, list) else [converted]:
        if isinstance(number, int) and abs(number) > largest:
            bound = f"at most {largest}" if number > 0 else f"at least -{largest}"
            raise UserError(f"{key}={show(value)}: must be {bound}")
    return converted


def _converted(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        exact = next((kind for kind in kinds if type(value) is (typing.get_origin(kind) or kind)), kinds[0])
        return _converted(value, exact)
    if origin is list and isinstance(value, list):
        return [_converted(entry, arguments[0]) for entry in value]
    if origin is dict and isinstance(value, Mapping):
        return {str(name): _converted(entry, arguments[1]) for name, entry in value.items()}
    if value is None or isinstance(value, list | Mapping):
        raise TypeError
    if isinstance(value, bool) or hint is bool:
        if hint is bool and str(value).lower() in ("true", "false", "1", "0"):
            return str(value).lower() in ("true", "1")
        raise TypeError
    if hint is int and not isinstance(value, float):
        return int(value)
    if hint is float:
        return float(value)
    if hint is str:
        return str(value)
    raise TypeError


def _wanted(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        return "a mapping"
    kinds = [kind for kind in (arguments or (hint,)) if kind is not type(None)]
    wanted = " or ".join(_WORDS.get(kind, "") or _wanted(kind) for kind in kinds)
    if typing.get_origin(hint) is list:
        return f"a list, each entry {wanted}"
    return wanted + (" or null" if type(None) in arguments else "")


# ---------------------------------------------------------------------------------------------------------------------
# classes


def _resolve_target(target: str, key: str, trusted: Sequence[str]) -> type[Any]:
    """Find the dataclass that ``_target_`` names, importing nothing but fedsim and the allowed modules."""
    module_name, _, class_name = target.rpartition(".")
    if not _in_modules(module_name, trusted):
        raise UserError(
            f"{key}._target_={target}: not a part of fedsim; if you trust the module, add --allow-module "
            f"{module_name.split('.')[0] or target}"
        )
    if not _in_modules(module_name, ("fedsim",)) and "" not in sys.path:
        sys.path.append("")  # a module of the user's own is likely to lie where the command was typed
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}._target_={target}: {error}") from None
    # The class must be defined there too: `fedsim.config.compose.hydra`, say, is a name in fedsim that leads elsewhere.
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and _in_modules(cls.__module__, trusted)):
        raise UserError(f"{key}._target_={target}: is not a component (a dataclass of {' or '.join(trusted)})")
    return cls


def _in_modules(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


# ---------------------------------------------------------------------------------------------------------------------
# and back


def record_of(component: Any, name_class: bool = False) -> dict[str, Any]:
    """The plain data of which an equal component can be built; `name_class` adds its own ``_target_``.

    A text that looks like an interpolation is escaped, because the record is written as a config.
    """
    cls = type(component)
    named = {"_target_": f"{cls.__module__}.{cls.__qualname__}"} if name_class else {}
    return named | {field.name: _plain(getattr(component, field.name)) for field in dataclasses.fields(component)}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)  # as OmegaConf reads it back
    return record_of(value, name_class=True) if dataclasses.is_dataclass(value) else value
