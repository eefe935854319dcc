"""``fedsim init``: the files with which something of the user's own begins, complete and working."""

from __future__ import annotations

import ast
import importlib.util
import json
import keyword
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from string import Template

from fedsim.cli import templates
from fedsim.config.compose import list_options, make_loader
from fedsim.config.documented import OWN, Key, read_option, top_level
from fedsim.core.names import option_name
from fedsim.errors import UserError
from fedsim.extras import pip_install, requirement

COMPONENTS = {"rule": ("aggregator/combine", templates.RULE), "data": ("data", templates.DATA)}
"""The option of the command line for each, with its config group and its files."""

CHOSEN = ("model", "data", "partition", "sampler", "client/optimizer", "aggregator")
"""The groups in an experiment's defaults list."""

SET = {
    "": ("rounds", "seed", "num_clients", "device", "eval.every"),
    "model": ("model.hidden_size", "model.num_layers"),
    "client": ("client.epochs", "client.batch_size", "client.clip_norm"),
    "client/optimizer": ("client.optimizer.lr",),
    "sampler": ("sampler.fraction",),
}
"""The keys in an experiment's YAML, by the group whose default option explains them."""

_LONGEST_NAME = 32  # with longer ones, lines of the templates would have to be broken


def write(file: Path | None, rule: str | None, data: str | None, config_dir: Path | None) -> None:
    """Write the files, all or none, and print the commands that use them.

    Args:
        file: the experiment's YAML; None is ``experiment/mine.yaml`` in `config_dir`.
        rule: the name of an aggregation rule to write instead.
        data: the name of a data source to write instead.
        config_dir: the folder for the YAML; None is ``configs``.

    Raises:
        UserError: if a name or a place cannot be used, or a file is there already.
    """
    components = {kind: name for kind, name in (("rule", rule), ("data", data)) if name is not None}
    if len(components) > 1:
        raise UserError(f"--rule {rule} --data {data}: one at a time")
    if file is not None and components:
        raise UserError(f"{file}: is for an experiment; --{next(iter(components))} writes NAME.py here")
    if file is not None and config_dir is not None:
        raise UserError(f"--config-dir {config_dir}: has an effect only without FILE, which says where it lies")
    folder = config_dir or Path("configs")
    if components:
        ((kind, name),) = components.items()
        files, commands = _component(kind, name, folder)
    else:
        file = file or folder / "experiment" / "mine.yaml"
        folder = _config_dir_of(file)
        files, commands = {file: _experiment()}, [_run(folder, f"experiment={file.stem}")]
    _check_folder(folder)
    _write_new(files)
    print(f"wrote {', '.join(str(path) for path in files)}; to use it:")
    print("\n".join(commands))


def _run(folder: Path, *words: str) -> str:
    return f"fedsim run {shlex.join([*words, '--config-dir', str(folder)])}"


def _check_folder(folder: Path) -> None:
    """Refuse a folder that ``--config-dir`` would refuse, such as that of fedsim's own configs in a clone."""
    if folder.resolve() == OWN.resolve() or OWN.resolve() in folder.resolve().parents:
        raise UserError(f"{folder}: holds fedsim's own configs; name another folder, such as --config-dir my_configs")
    if folder.exists():
        make_loader(str(folder))


# ---------------------------------------------------------------------------------------------------------------------
# an experiment


def _config_dir_of(file: Path) -> Path:
    """The folder to give as ``--config-dir`` for an experiment's file."""
    if file.parent.name != "experiment" or file.suffix != ".yaml":
        raise UserError(f"{file}: must be FOLDER/experiment/NAME.yaml, such as configs/experiment/mine.yaml")
    if not re.fullmatch(r"[A-Za-z_]\w*", file.stem, re.ASCII):
        raise UserError(f"{file}: {file.stem} must be letters, digits and underscores, as it is typed on command lines")
    if file.stem in list_options()["experiment"]:
        raise UserError(f"{file}: experiment={file.stem} is one of fedsim's own; choose another name")
    return file.parent.parent


def _experiment() -> str:
    """An experiment with fedsim's defaults; what is said of options and keys comes from their own files."""
    groups, top = list_options(), top_level()
    options = dict(top.parts)
    options |= read_option("client", options["client"]).parts
    choices = [(f"  - override /{group}: {options[group]}", _others(group, groups[group])) for group in CHOSEN]
    found = {key.name: key for group in SET for key in (read_option(group, options[group]) if group else top).keys}
    blocks = {group.partition("/")[0]: [found[name] for name in names] for group, names in SET.items()}
    blocks["client"] = [found[name] for group in ("client", "client/optimizer") for name in SET[group]]
    lines = [line for keys in blocks.values() for line in _nested(keys)]
    return templates.EXPERIMENT + "\n".join([*_aligned(choices), "  - _self_", "", *_aligned(lines)]) + "\n"


def _others(group: str, names: Sequence[str]) -> str:
    """The options of a group, in one line."""
    shown = ", ".join(names)
    return shown if len(shown) <= 60 else f"one of {len(names)}: fedsim list {group}"


def _nested(keys: Sequence[Key]) -> list[tuple[str, str]]:
    """Lines of YAML with their comments; the keys of a mapping lie together."""
    lines: list[tuple[str, str]] = []
    above: list[str] = []
    for key in keys:
        *parents, name = key.name.split(".")
        common = next((n for n, (a, b) in enumerate(zip(parents, above, strict=False)) if a != b), len(above))
        common = min(common, len(parents))
        lines += [(f"{'  ' * depth}{parents[depth]}:", "") for depth in range(common, len(parents))]
        lines.append((f"{'  ' * len(parents)}{name}: {key.default}", f"{key.meaning}{_elsewhere(key)}"))
        above = parents
    return lines


def _elsewhere(key: Key) -> str:
    """What a learning rate is by default with the other optimizer, since the one is no good for the other."""
    if key.name != "client.optimizer.lr":
        return ""
    adam = {one.name: one.default for one in read_option("client/optimizer", "adam").keys}
    return f" of {dict(read_option('client', 'default').parts)['client/optimizer']}; that of adam is {adam[key.name]}"


def _aligned(lines: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(line) for line, comment in lines if comment)
    return [f"{line:{width}}  # {comment}" if comment else line for line, comment in lines]


# ---------------------------------------------------------------------------------------------------------------------
# a component


def _component(kind: str, name: str, folder: Path) -> tuple[dict[Path, str], list[str]]:
    """The files of a component, and the commands that use it."""
    group, files = COMPONENTS[kind]
    yaml_file = folder / group / f"{name}.yaml"
    cls = _class_name(kind, name)
    words = {"name": name, "cls": cls, "configs": json.dumps(str(folder))}
    module, test, yaml = (Template(text).substitute(words) for text in (files.module, files.test, files.yaml))
    _check_name(kind, name, cls, module, test)
    made = {Path(f"{name}.py"): module, Path(f"test_{name}.py"): test, yaml_file: yaml}
    commands = [
        _run(folder, f"{group}={name}", *files.words, "--allow-module", name),
        f"python -m pytest test_{name}.py",
    ]
    if importlib.util.find_spec("pytest") is None:
        commands.insert(1, pip_install([requirement("pytest")]))
    return made, commands


def _class_name(kind: str, name: str) -> str:
    """The name of the class of ``same_length``, ``SameLength``."""
    if not re.fullmatch(r"[a-z]\w*", name, re.ASCII) or not name.islower() or len(name) > _LONGEST_NAME:
        raise UserError(
            f"--{kind} {name}: must be at most {_LONGEST_NAME} small letters, digits and underscores, such as my_{kind}"
        )
    cls = "".join(word.capitalize() for word in name.split("_"))
    if (option := option_name(type(cls, (), {})())) != name:
        raise UserError(f"--{kind} {name}: its class {cls} would count as the option {option}; choose another name")
    return cls


def _check_name(kind: str, name: str, cls: str, *modules: str) -> None:
    """Refuse a name that means something else already: to fedsim, to Python, or within the files themselves."""
    group = COMPONENTS[kind][0]
    if name in list_options()[group]:
        raise UserError(f"--{kind} {name}: {group}={name} is one of fedsim's own; choose another name")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UserError(f"--{kind} {name}: is a word of Python's; choose another name")
    here = Path(f"{name}.py").resolve()
    for module in (name, f"test_{name}"):
        spec = None if module in sys.stdlib_module_names else PathFinder.find_spec(module, ["", *sys.path])
        hidden = spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent != here.parent
        if hidden or module in sys.stdlib_module_names:
            place = f" ({spec.origin})" if spec is not None else ""
            raise UserError(f"--{kind} {name}: there is a module {module} already{place}; choose another name")
    for text in modules:
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
        used = [alias.name for node in nodes for alias in node.names if getattr(node, "module", "") != name]
        if cls in used or name in used:
            word = cls if cls in used else name
            raise UserError(f"--{kind} {name}: {word} means something else in the files; choose another name")


# ---------------------------------------------------------------------------------------------------------------------


def _write_new(files: Mapping[Path, str]) -> None:
    """Write files that do not exist yet, all or none.

    Raises:
        UserError: if one exists or cannot be written.
    """
    for path in files:
        if path.exists() or path.is_symlink():
            raise UserError(f"{path}: exists already, and nothing is written over it; name another, or move it away")
    made: list[Path] = []
    try:
        for path, text in files.items():
            made += [parent for parent in reversed(path.parents) if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="\n") as out:
                made.append(path)
                out.write(text)
    except BaseException as error:
        for place in reversed(made):
            with suppress(OSError):  # a folder that was not made after all, or is in use meanwhile
                place.rmdir() if place.is_dir() else place.unlink()
        if isinstance(error, OSError | ValueError):
            raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
        raise
