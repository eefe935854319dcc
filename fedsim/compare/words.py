"""Words in pictures: labels of axes, and values as they are shown."""

from __future__ import annotations

from fedsim.compare.escape import drawn_name

LARGEST = 1e300
"""What is beyond it leaves an axis no room."""


def shown_value(value: object) -> str:
    """A setting's value as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def natural(value: object) -> tuple[int, float, str]:
    """A sort key: numbers by size, before words."""
    try:
        return 0, float(str(value)), ""
    except ValueError:
        return 1, 0.0, str(value)


def x_label(x: str, prefix: str) -> str:
    """The label of the horizontal axis; `prefix` is that of its unit, such as M for a million."""
    return {
        "round": "round",
        "bytes_up": f"sent by all clients ({prefix}B)",
        "bytes_down": f"received by all clients ({prefix}B)",
        "virtual_seconds": "simulated time (s)",
    }[x]


def metric_label(metric: str) -> str:
    """A column's name in words, with its unit where that is known."""
    words = drawn_name(metric.replace("_", " "))
    if "accuracy" in metric:
        return f"{words} (share)"
    if metric.endswith(("rmse", "mae")):
        return f"{words} (unit of the target)".replace("rmse", "RMSE").replace("mae", "MAE")
    return words
