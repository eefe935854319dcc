"""Tables that are neither delimited text nor Parquet: JSON lines, and Monash's ``.tsf``."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from fedsim.data.aeon_files import import_aeon
from fedsim.data.table_frame import BadFileError, File, check_names
from fedsim.data.table_text import TextFormat, read_bytes


def read_json_lines(file: Path, text_format: TextFormat) -> File:
    """Read a file with a JSON object per line: a name that a line lacks, and null, is a missing value.

    Nothing is guessed: text stays text, also where it looks like a number or a date.

    Raises:
        BadFileError: if a line is no object.
    """
    import pandas as pd

    text = read_bytes(file, text_format.encoding, text_format.gzip_ratio).decode()
    rows = text.split("\n")
    lines = np.array([k + 1 for k, row in enumerate(rows) if row.strip()], np.int64)
    wrong = next((k for k in lines if not rows[k - 1].strip().startswith("{")), None)
    if wrong is not None:
        raise BadFileError("is not a JSON object, {...}, as each line of JSON lines is", line=int(wrong))
    kept = "\n".join(rows[k - 1].strip() for k in lines)
    try:
        frame = pd.read_json(
            io.StringIO(kept), lines=True, dtype=False, convert_dates=False, convert_axes=False, precise_float=True
        )
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise BadFileError(f"cannot be read as JSON lines ({' '.join(str(error).split())[:200]})") from None
    if len(frame) != len(lines):
        raise BadFileError(f"cannot be read as JSON lines ({len(lines)} lines, {len(frame)} objects)")
    names = [str(name).strip() for name in frame.columns]
    check_names(names)
    return File(file.name, frame.set_axis(names, axis=1), first=1, unit="line", lines=lines)


def read_tsf(file: Path) -> File:
    """Read a file of Monash's archive with aeon: its attributes, but for start times, and ``series_value``, row by row.

    The values of a series follow each other at one step, so that its start time says nothing of their order.

    Raises:
        BadFileError: if aeon cannot read it.
    """
    import pandas as pd

    load_from_tsf_file = import_aeon("aeon.datasets", "data=csv on .tsf files").load_from_tsf_file

    try:
        found, _ = load_from_tsf_file(str(file), replace_missing_vals_with=np.nan)
    except OSError:
        raise
    except Exception as error:  # aeon raises Exception itself
        raise BadFileError(f"cannot be read as .tsf ({' '.join(str(error).split())[:200]})") from None
    sizes = found["series_value"].map(len).to_numpy(np.int64)
    rows = np.repeat(np.arange(len(found)), sizes)
    columns = {
        name: found[name].to_numpy()[rows]
        for name in found.columns
        if name != "series_value" and not pd.api.types.is_datetime64_any_dtype(found[name])
    }
    columns["series_value"] = np.concatenate([np.asarray(series, np.float64) for series in found["series_value"]])
    return File(file.name, pd.DataFrame(columns), first=1, unit="series", lines=rows + 1)
