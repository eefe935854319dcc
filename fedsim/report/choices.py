"""Which number judged the runs, what it was measured on, and what was chosen by it."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.compare.best import of_choice, of_optimism
from fedsim.compare.groups import ABSENT
from fedsim.compare.metric import HELD_OUT, HOW_TO_HOLD_BACK, is_cumulative
from fedsim.compare.reading import Run
from fedsim.compare.statistics import best_value
from fedsim.compare.table import Comparison

_MEASURED_ON = {
    "test": "the clients' test samples",
    "personal": "each client's own test samples, after it has fitted the model to its training samples",
    "unseen": "the test samples of clients that never train",
    "validation": "samples that were held out of the clients' training data",
    "local": "each client's own validation samples, with the model that it trained itself",
    "train": "the samples that the clients train on",
}
_HELD_BACK = "samples that were held back from training, with the global model"
_MOST = 12


def measured_on(metric: str, runs: Sequence[Run]) -> str:
    """The data on which a column is measured, in words; empty if its name does not say.

    Runs that say on which data they were judged have ``validation_`` columns of the global model; older ones have those
    of the clients' own models under that name.
    """
    if metric.startswith("validation_") and any(run.judged_on for run in runs):
        own = metric.startswith("validation_personal_")
        return _HELD_BACK.replace("the global model", "each client's own model") if own else _HELD_BACK
    return _MEASURED_ON.get(metric.partition("_")[0], "")


def sentences(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """What a reader must know to judge the choice of a round, of an end, and of a setting."""
    metric, end = comparison.metric, "lowest" if comparison.mode == "min" else "highest"
    where = measured_on(metric, runs)
    said = [
        f"{metric} is measured on {where}." if where else f"The files do not say on which data {metric} is measured."
    ]
    on_test = metric.startswith(HELD_OUT)
    if comparison.choice is not None:
        said += [
            *map(_sentence, of_choice(comparison)),
            f"{comparison.choice.column} is measured on {measured_on(comparison.choice.column, runs)}.",
            *map(_sentence, of_optimism(comparison)),
        ]
    elif not is_cumulative(runs, metric):
        said.append(f"The best round is the one with the {end} {metric}{_best_rounds(comparison, runs)}.")
        if on_test:
            said.append(
                "It was picked on the test data themselves, so that the best value flatters; the final value was not "
                f"picked ({HOW_TO_HOLD_BACK})."
            )
    said += _early_ends(metric, runs)
    if len(comparison.groups) > 1 and on_test:
        if comparison.by == "chosen":
            said.append(f"The best row of the table is picked by {comparison.sorted_by} too.")
        elif comparison.choice is None:
            said.append("Whoever picks a row of the table picks it on the test data too.")
        said.append("Whether settings were tuned by these numbers beforehand, the files do not say.")
    return said


def _sentence(note: str) -> str:
    """A note below a table as a sentence."""
    return f"{note[0].upper()}{note[1:]}."


def _best_rounds(comparison: Comparison, runs: Sequence[Run]) -> str:
    found = sorted(
        {
            int(at)
            for run in runs
            for _, at in [best_value(run.columns.get(comparison.metric), comparison.mode)]
            if at >= 0
        }
    )
    if not found:
        return ""
    if len(found) > _MOST:
        return f": rounds {found[0]} to {found[-1]} of the runs"
    return f": round {found[0]}" if len(found) == 1 else f": rounds {', '.join(map(str, found))} of the runs"


def _early_ends(metric: str, runs: Sequence[Run]) -> list[str]:
    """How runs were set to end early, each way once."""
    found: dict[str, int] = {}
    for run in runs:
        config = run.config or {}
        rules = [
            f"{name} {value}"
            for name in ("target", "patience")
            if (value := config.get(f"stop.{name}", ABSENT)) not in (ABSENT, "null")
        ]
        if rules:
            watched = config.get("stop.metric", "null")
            watched = str(run.judge[0] if run.judge else metric) if watched in ("null", ABSENT) else str(watched)
            where = measured_on(watched, [run])
            rule = f"{watched} ({', '.join(rules)})" + (f", which is measured on {where}" if where else "")
            found[rule] = found.get(rule, 0) + 1
    return [
        f"{'All runs' if count == len(runs) > 1 else 'The run' if len(runs) == 1 else f'{count} runs'} could end early "
        f"by {rule}."
        for rule, count in found.items()
    ]
