"""Which end of a metric is the good one."""

LOWER_IS_BETTER = ("loss", "rmse", "mae", "norm", "drift", "nasa_score", "rmse_p90", "_std")
"""Endings of the names of metrics that are minimised; all others are maximised."""


def better_is(metric: str) -> str:
    """``min`` or ``max``, by the metric's name."""
    return "min" if metric.endswith(LOWER_IS_BETTER) else "max"
