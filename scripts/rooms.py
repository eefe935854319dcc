"""The rooms of fedsim (its packages) and the arrows between them, from the imports: ``python scripts/rooms.py``.

A room is a package, or one of the few modules that lie in the root. Its floor is one above the highest room that it
imports; arrows run downwards only. The documentation draws its picture with `draw` when it is built.
"""

from __future__ import annotations

import ast
import html
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "fedsim"
ROOT = "root"
"""The room of the modules that lie in the package itself."""


def modules(package: Path) -> dict[str, Path]:
    """The files of a package, by dotted name without the package's own."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path) -> dict[str, dict[str, int]]:
    """For each module, the modules of the package that it imports, wherever in the file, with the line."""
    files = modules(package)
    found: dict[str, dict[str, int]] = {}
    for name, path in files.items():
        found[name] = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node, package.name):
                module = target if target in files else target.rpartition(".")[0]
                if module in files and module not in (name, ""):
                    found[name].setdefault(module, node.lineno)
    return found


def _targets(node: ast.AST, package: str) -> list[str]:
    """What an import statement may mean by its names, dotted, without the package's own name."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    return [name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")]


def room_of(module: str) -> str:
    """The room in which a module lies; ``python -m fedsim`` is the command line's door."""
    return "cli" if module == "__main__" else module.partition(".")[0] if "." in module else ROOT


def rooms(package: Path) -> dict[str, dict[str, str]]:
    """For each room, the rooms that it imports, each with one import as ``file:line``."""
    files, found = modules(package), defaultdict[str, dict[str, str]](dict)
    packages = {name.partition(".")[0] for name in files if "." in name}
    for name, targets in imports(package).items():
        room = name if name in packages else room_of(name)
        found[room].update({})
        for target, line in targets.items():
            other = target if target in packages else room_of(target)
            if other != room:
                where = f"{files[name].relative_to(package.parent)}:{line}"
                found[room].setdefault(other, f"{where} imports {package.name}.{target}")
    return dict(found)


def floors(arrows: dict[str, dict[str, str]] | dict[str, dict[str, int]]) -> dict[str, int]:
    """The floor of each room or module, from 1.

    Raises:
        ValueError: naming a circle, with the import that closes it.
    """
    found: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            circle = [*above[above.index(name) :], name]
            raise ValueError(f"a circle: {' -> '.join(circle)} ({arrows[circle[-2]][name]})")
        if name not in found:
            found[name] = 1 + max((floor(other, (*above, name)) for other in arrows[name]), default=0)
        return found[name]

    for name in arrows:
        floor(name, ())
    return found


def listing(package: Path) -> str:
    """The floors, the highest first, as text."""
    arrows = rooms(package)
    levels = floors(arrows)
    lines = []
    for level in range(max(levels.values()), 0, -1):
        lines.append(f"{level:>2}  " + "  ".join(sorted(name for name in levels if levels[name] == level)))
    return "\n".join(lines)


def draw(package: Path) -> str:
    """The rooms as an SVG: a row for each floor, an arrow for each import between neighbouring rooms in the picture.

    An arrow that follows from two others (a room that is imported directly and through a third) is left out.
    """
    arrows = rooms(package)
    levels = floors(arrows)
    box, row, gap = 26, 62, 14
    top = max(levels.values())
    sizes = {name: 12 + 8.2 * len(name) for name in levels}
    on = {level: sorted(name for name in levels if levels[name] == level) for level in range(1, top + 1)}
    width = max(sum(sizes[name] + gap for name in names) for names in on.values()) + gap
    places: dict[str, tuple[float, float, float]] = {}
    for level, names in on.items():
        x = (width - sum(sizes[name] + gap for name in names) + gap) / 2
        for name in names:
            size = sizes[name]
            places[name] = (x, (top - level) * row + 20, size)
            x += size + gap
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {top * row}" role="img" '
        'font-family="monospace" font-size="13">',
        "<title>The rooms of fedsim: arrows are imports and run downwards</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#7a869a"/></marker></defs>',
    ]
    for name, targets in sorted(arrows.items()):
        for other in sorted(targets):
            if not any(other in _reached(arrows, third) for third in targets if third != other):
                (x1, y1, w1), (x2, y2, w2) = places[name], places[other]
                lines.append(
                    f'<line x1="{x1 + w1 / 2:.0f}" y1="{y1 + box:.0f}" x2="{x2 + w2 / 2:.0f}" y2="{y2 - 2:.0f}" '
                    'stroke="#7a869a" stroke-width="1" marker-end="url(#tip)"/>'
                )
    for name, (x, y, size) in sorted(places.items()):
        lines.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{size:.0f}" height="{box}" rx="5" fill="#eef3fb" stroke="#3b5b92"/>'
            f'<text x="{x + size / 2:.0f}" y="{y + 17:.0f}" text-anchor="middle" fill="#1c2a44">'
            f"{html.escape(name)}</text>"
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _reached(arrows: dict[str, dict[str, str]], name: str) -> set[str]:
    """All rooms below a room."""
    below: set[str] = set()
    waiting = list(arrows[name])
    while waiting:
        other = waiting.pop()
        if other not in below:
            below.add(other)
            waiting += arrows[other]
    return below


if __name__ == "__main__":
    print(listing(PACKAGE))
