"""Runs made by hand."""

import copy
import functools
import json
import operator

import pandas as pd
import pytest
import yaml

# Evaluated in rounds 0, 2 and 3 of 4. Final: the last evaluated row, round 3: 0.6. Best: round 2: 0.7123456.
METRICS = """\
round,clients,train_loss,test_loss,test_accuracy,bytes_up
0,0,,2.0,0.1,0
1,4,1.5,,,400
2,4,1.2,1.0,0.7123456,800
3,4,1.1,0.9,0.6,1200
4,4,1.0,,,1600
"""
CONFIG = {
    "format_version": 1,
    "seed": 0,
    "rounds": 4,
    "model": {"_target_": "fedsim.models.recurrent.GRU", "hidden_size": 64},
    "aggregator": {"server_optimizer": {"_target_": "fedsim.server.optimizers.Adam", "lr": 0.1}},
    "tags": [],
}
SUMMARY = {"format_version": 1, "status": "done", "best": {"metric": "test_accuracy", "mode": "max", "round": 2}}


def changed(changes):
    """CONFIG with dotted keys set."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *parents, last = key.split(".")
        functools.reduce(operator.getitem, parents, config)[last] = value
    return config


@pytest.fixture
def metrics():
    """The `metrics.csv` of a run."""
    return METRICS


@pytest.fixture
def make_run(tmp_path):
    """Return ``make_run(name, changes, metrics=, accuracy=, summary=, choices=, typed=)``, which returns the folder.

    `changes` to the config have dotted keys (None: no config at all); `accuracy` is that of rounds 0, 1, ..., with 100
    bytes down and 10 bytes up in each; `choices` and `typed` are what Hydra's record says.
    """

    def make(name, changes=(), *, metrics=METRICS, accuracy=None, summary=SUMMARY, choices=None, typed=()):
        path = tmp_path / name
        path.mkdir(parents=True)
        if accuracy is not None:
            rows = [f"{at},{value},{100 * at},{10 * at}" for at, value in enumerate(accuracy)]
            metrics = "\n".join(["round,test_accuracy,bytes_down,bytes_up", *rows, ""])
        (path / "metrics.csv").write_text(metrics)
        if changes is not None:
            (path / "config.yaml").write_text(yaml.safe_dump(changed(dict(changes)), sort_keys=False))
        if summary is not None:
            (path / "summary.json").write_text(json.dumps(summary))
        if choices is not None:
            record = {"overrides": {"task": list(typed)}, "runtime": {"choices": choices}}
            (path / ".hydra").mkdir()
            (path / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": record}))
        return path

    return make


@pytest.fixture
def judged():
    """Return ``judged(metric, mode, columns={})``: a summary that is judged by a metric and declares these columns."""
    return lambda metric, mode, columns=(): {
        "status": "done",
        "best": {"metric": metric, "mode": mode},
        "columns": dict(columns),
    }


@pytest.fixture
def scored(make_run):
    """Return ``scored(name, size, columns, ...)``: a run that says on which data it was judged; returns its folder.

    `columns` are the scores of rounds 0, 1, ...; it is judged by `by`, whose best value is found by Python's own min or
    max; `clients` are the columns of its ``clients.csv``.
    """

    def make(name, size, columns, *, by, items=(), seed=0, status="done", clients=None, **summary):
        rounds = len(next(iter(columns.values())))
        lines = [",".join(["round", *columns])]
        lines += [",".join(map(str, [at, *(values[at] for values in columns.values())])) for at in range(rounds)]
        better = max if "accuracy" in by else min
        value = better(columns[by])
        at = columns[by].index(value)
        best = {"metric": by, "mode": better.__name__, "value": value, "round": at}
        best |= {"on": by.partition("_")[0], "test": {c: v[at] for c, v in columns.items() if not c.startswith("val")}}
        content = {"status": status, "rounds": rounds - 1, "best": best, "items": dict(items)} | summary
        changes = {"seed": seed, "model.hidden_size": size}
        path = make_run(name, changes, metrics="\n".join([*lines, ""]), summary=content)
        if clients is not None:
            pd.DataFrame(clients).to_csv(path / "clients.csv", index=False)
        return path

    return make
