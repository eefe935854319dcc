"""``fedsim report``: compare the runs, put the page together, and write it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fedsim import __version__
from fedsim.compare.escape import one_line
from fedsim.compare.reading import Lost, load_runs
from fedsim.compare.table import Comparison, Question, compare
from fedsim.errors import UserError, print_error
from fedsim.files import write_file
from fedsim.report.content import content
from fedsim.report.picture import pictures

_OPTIONS = (
    *(("metric", "metric"), ("better", "better"), ("last", "last"), ("last-rounds", "last_rounds")),
    *(("at", "at"), ("target", "target"), ("by", "by")),
)


def write(paths: Sequence[str], question: Question, file: Path) -> None:
    """Write the report of the runs that `paths` name.

    Args:
        paths: see `fedsim.compare.reading.load_runs`.
        question: what to compare.
        file: ends in .html or .htm; ``-`` is standard output.

    Raises:
        UserError: if there is nothing to report, or the file cannot be written.
    """
    if str(file) != "-" and file.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {file}: must end in .html")
    runs, problems = load_runs(paths)
    comparison = compare(runs, question)
    if lost := sum(isinstance(text, Lost) for text in problems):
        comparison.notes.append(f"not in this table: {lost} run{'s' if lost > 1 else ''} that could not be read")
    page = render(comparison, problems, command(paths, question, file))
    if str(file) == "-":
        sys.stdout.write(page)
    else:
        write_file(file, page.encode())
        print(one_line(f"{file}: {len(runs)} run{'s' if len(runs) > 1 else ''}"))
    for text in [*problems, *comparison.warnings]:
        print_error(text, "warning")


def command(paths: Sequence[str], question: Question, file: Path) -> str:
    """The command that writes this report again."""
    words = ["fedsim", "report", *paths]
    for option, name in _OPTIONS:
        if (value := getattr(question, name)) is not None:
            words += [f"--{option}", str(value)]
    for baseline in question.baseline:
        words += ["--baseline", baseline]
    words += [] if question.keys is None else ["--keys", ",".join(question.keys)]
    words += ["--partial"] if question.partial else []
    return shlex.join([*words, "--out", str(file)])


def render(comparison: Comparison, problems: Sequence[str], own_command: str) -> str:
    """The page; every text in it is escaped, whoever wrote it, but for the pictures, which hold no text.

    The same runs and the same command give the same bytes.
    """
    svgs, picture_notes = pictures(comparison)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_harmless,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        page=content(comparison, problems, own_command),
        pictures=[Markup(svg) for svg in svgs],  # noqa: S704  # matplotlib's own outlines
        picture_notes=picture_notes,
        version=__version__,
    )


def _harmless(value: Any) -> Any:
    """A text in one line, without characters that turn its direction or hide; the template then escapes it."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value
