"""A new run of the settings that another run recorded: ``fedsim run RUN_DIR/config.yaml``."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from fedsim.config.command_line import check_tracker
from fedsim.config.compose import Job, Request, normalise
from fedsim.config.from_file import is_file
from fedsim.config.loader import parse
from fedsim.config.recorded import amend, place_of, split_place
from fedsim.errors import UserError
from fedsim.runs.record import parse_record
from fedsim.yaml_bounds import read_bounded


def recorded_job(request: Request) -> Job | None:
    """The run that a request asks for by the record of another; None if it names no record.

    Args:
        request: as it was typed: the name of a ``config.yaml`` that a run wrote, and what is to be changed.

    Raises:
        UserError: if the record cannot be read, is not alone, or does not go with the changes.
    """
    files = [text for text in request.overrides if is_file(text)]
    texts = {text: read_bounded(Path(text)) for text in files}
    records = [text for text, content in texts.items() if re.search(r"^format_version:", content, re.MULTILINE)]
    if not records:
        return None
    record = records[0]
    if len(files) > 1 or request.multirun:
        what = "-m: a sweep" if request.multirun else f"{files[1]}: another file"
        raise UserError(f"{what} does not go with {record}, the record of one run")
    changes = normalise(dataclasses.replace(request, overrides=tuple(t for t in request.overrides if t != record)))
    rest, _ = split_place(changes)
    path = Path(record)
    content = parse_record(texts[record], path)
    if "model" not in content:  # such as the list of the jobs of a sweep
        raise UserError(f"{record}: is not the record of a run (it says no model)")
    try:
        experiment = amend(content, dataclasses.replace(changes, overrides=rest))
    except UserError as error:
        raise UserError(f"{record}: {error}") from None
    check_tracker(experiment, [parse(text) for text in rest])
    directory = place_of(changes, experiment, new=True)
    assert directory is not None
    return Job(rest, experiment, directory, directory)
