"""``fedsim compare``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.compare import output, plot
from fedsim.compare.reading import Lost, load_runs
from fedsim.compare.table import Question, compare
from fedsim.errors import UserError, did_you_mean, print_error
from fedsim.files import write_file


@dataclass(frozen=True)
class Picture:
    """What ``--plot`` draws.

    Attributes:
        file: ends in .png, .svg or .pdf.
        x: the column of the horizontal axis; None: ``round``.
        heatmap: a heat map of two settings instead of curves; None: if exactly two settings differ and are numbers.
    """

    file: Path
    x: str | None
    heatmap: bool | None


def picture(file: Path | None, x: str | None, heatmap: bool | None) -> Picture | None:
    """Return the picture that the options ask for, checked before anything is read.

    Raises:
        UserError: for a picture that cannot be drawn, and for options that would do nothing.
    """
    if x is not None:
        x = {"rounds": "round"}.get(x, x)
        if x not in plot.X_AXES:
            raise UserError(f"--x {x}: must be one of {', '.join(plot.X_AXES)}{did_you_mean(x, plot.X_AXES)}")
    if file is None:
        if x is not None or heatmap is not None:
            name = f"--x {x}" if x is not None else "--heatmap" if heatmap else "--curves"
            raise UserError(f"{name}: needs --plot FILE")
        return None
    if heatmap and x is not None:
        raise UserError(f"--x {x}: a heat map has no such axis; leave out --heatmap or --x")
    plot.check(file)
    return Picture(file, x, heatmap)


def show(paths: Sequence[str], question: Question, files: Mapping[str, Path], picture: Picture | None) -> None:
    """Print the comparison of the runs that `paths` name, and write its files.

    Args:
        paths: see `fedsim.compare.reading.load_runs`.
        question: what to compare.
        files: ``csv``, ``markdown`` or ``latex`` to the file to write; ``-`` is standard output, in place of the table.
        picture: what to draw.

    Raises:
        UserError: if there is nothing to compare, or a file cannot be written.
    """
    from rich.console import Console

    piped = [kind for kind, file in files.items() if str(file) == "-"]
    if len(piped) > 1:
        raise UserError(f"--{piped[1]} -: standard output is already used by --{piped[0]}")
    runs, problems = load_runs(paths)
    comparison = compare(runs, question)
    if lost := sum(isinstance(text, Lost) for text in problems):
        comparison.notes.append(f"not in this table: {lost} run{'s' if lost > 1 else ''} that could not be read")
    texts = {kind: getattr(output, kind)(comparison) for kind in files}
    for kind, text in texts.items():
        if kind not in piped:
            write_file(files[kind], text.encode())
    if piped:
        sys.stdout.write(texts[piped[0]])
    else:
        console = Console(highlight=False, emoji=False)
        if not console.is_terminal:
            console.width = 500  # a line per row, for grep
        for table in output.render(comparison, console.width):
            console.print(table)
        for note in output.notes(comparison):
            console.print(note, markup=False, style="dim")
    if picture is not None:
        comparison.warnings.extend(plot.cut_short(comparison.groups))
    for text in [*problems, *comparison.warnings]:
        print_error(text, "warning")
    if picture is not None:  # at the end, so that nothing of the rest is lost if it cannot be drawn
        content = plot.draw(comparison, picture.file.suffix[1:].lower(), picture.x, picture.heatmap)
        write_file(picture.file, content)
