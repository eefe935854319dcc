"""Errors in the targets' own units, against pandas and numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fedsim.data.csv import Csv
from fedsim.data.dataset import Forecast, Task
from fedsim.data.fitted import NOTHING, Fitted, Scaling, columns
from fedsim.data.population import Population, Samples
from fedsim.errors import FieldError, UserError
from fedsim.evaluation.errors import error_names, measures, naive_outputs, target_names
from fedsim.evaluation.to_beat import describe_scores, error_unit, rival
from fedsim.federation.prepare import prepare


def samples(targets, inputs=None, sources=None):
    targets = torch.tensor(targets, dtype=torch.float64)
    inputs = torch.zeros(len(targets), 2, 1) if inputs is None else torch.tensor(inputs, dtype=torch.float64)
    lengths = torch.full((len(targets),), inputs.shape[1])
    return Samples(inputs, lengths, targets, torch.tensor([0, len(targets)]), sources)


def population(test, fitted=NOTHING, forecast=None, **more):
    more |= {"fitted": fitted, "forecast": forecast}
    return Population(Task.REGRESSION, test, test, None, test.targets.shape[1], 1, None, ("c",), **more)


def measured(outputs, of):
    found = measures(torch.tensor(outputs, dtype=torch.float64), of.test, of)
    assert tuple(measure.name for measure in found) == error_names(of)
    return {measure.name: measure.over_all() for measure in found}


def test_one_target():
    """Targets 1 and -1 of scale 5 and shift 20 are 25 and 15; predictions 3 and -2 are 35 and 10: errors 10 and -5.

    RMSE: root of (100 + 25) / 2. MAE 7.5. MAPE: 100 (10/25 + 5/15) / 2. sMAPE: 200 (10/60 + 5/25) / 2.
    MASE: by 2.5, the naive forecast's error.
    """
    forecast = Forecast(metrics=("mape", "smape", "mase"), naive_errors=np.array([[2.5]]))
    of = population(samples([[1.0], [-1.0]]), Fitted(Scaling(targets=columns(["y"], 20, 5))), forecast)
    assert measured([[3.0], [-2.0]], of) == pytest.approx(
        {
            "rmse": math.sqrt(62.5),
            "mae": 7.5,
            "mape": 100 * (10 / 25 + 5 / 15) / 2,
            "smape": 200 * (10 / 60 + 5 / 25) / 2,
            "mase": 3.0,
        },
        rel=1e-14,
    )


def test_targets_of_several_units():
    """Two steps of two targets, scales 2 and 10; errors in the model's unit 1, 3 (first step) and 1, -1 (second)."""
    of = population(
        samples([[0.0, 0.0, 0.0, 0.0]]), Fitted(Scaling(targets=columns(["a b", "c"], [1, 2], [2, 10]))), Forecast(2)
    )
    assert measured([[1.0, 3.0, 1.0, -1.0]], of) == pytest.approx(
        {
            "rmse": math.sqrt((1 + 9 + 1 + 1) / 4),
            "mae": 1.5,
            "rmse_a_b": 2.0,
            "mae_a_b": 2.0,
            "rmse_c": 10 * math.sqrt((9 + 1) / 2),
            "mae_c": 20.0,
        },
        rel=1e-14,
    )


def test_each_client_has_its_own_scale():
    """The same error of 1 is one of 2 for the first client and of 10 for the second; 5 by 2 and 10 by 0 are MASE 1.

    The second client's series never changes: for it, MASE is not defined, and it does not count.
    """
    fitted = Fitted(
        Scaling(targets=columns(["y"])),
        clients=tuple((name, Scaling(targets=columns(["y"], 0, scale))) for name, scale in (("a", 2), ("b", 10))),
    )
    of = population(
        samples([[0.0], [0.0]], sources=torch.tensor([0, 1])),
        fitted,
        Forecast(metrics=("mase",), naive_errors=np.array([[2.0], [0.0]])),
        source_names=("a", "b"),
    )
    assert measured([[1.0], [1.0]], of) == pytest.approx({"rmse": math.sqrt(52), "mae": 6.0, "mase": 1.0}, rel=1e-14)


def test_smape_of_nothing():
    """0 predicted for 0 is no error, as in the M4 competition."""
    of = population(samples([[0.0], [1.0]]), Fitted(Scaling(targets=columns(["y"]))), Forecast(metrics=("smape",)))
    assert measured([[0.0], [3.0]], of)["smape"] == pytest.approx((0 + 200 * 2 / 4) / 2)


def test_quantiles():
    """Quantiles 0.1, 0.5 and 0.9 of a target of 1 (in a unit of 10), predicted as 0, 2 and 3.

    Pinball: 0.1 * 1, 0.5 * 1 and 0.1 * 2, of which the mean is 0.8 / 3, times 10. The median is wrong by 10. The second
    value, 5, lies above the highest quantile: coverage is 1/2.
    """
    forecast = Forecast(quantiles=(0.1, 0.5, 0.9))
    of = population(samples([[1.0] * 3, [5.0] * 3]), Fitted(Scaling(targets=columns(["y"], 0, 10))), forecast)
    found = measured([[0.0, 2.0, 3.0], [4.0, 5.0, 4.5]], of)
    second = (0.1 * 1 + 0 + 0.9 * 0.5) / 3
    assert found == pytest.approx(
        {
            "rmse": math.sqrt((100 + 0) / 2),
            "mae": 5.0,
            "pinball": 10 * ((0.1 + 0.5 + 0.2) / 3 + second) / 2,
            "coverage": 0.5,
        },
        rel=1e-14,
    )


def test_names_of_targets():
    assert target_names(columns(["T (degC)", "p", "T [degC]", "%"])) == ["T_degC_0", "p", "T_degC_2", "target_3"]


# ---------------------------------------------------------------------------------------------------------------------
# tables


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "key": np.repeat(["a", "b"], 60),
            "heat": 300 + 5 * rng.standard_normal(120),
            "load": np.where(np.arange(120) < 60, 10, 1000) * (2 + rng.standard_normal(120)),
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    return frame, {"path": str(tmp_path / "t.csv"), "client_column": "key", "window": 6, "target_column": "load"}


def federation(tiny, settings):
    from fedsim.partition.natural import Natural

    return prepare(replace(tiny(task=Task.REGRESSION), data=Csv(**settings), partition=Natural(), num_clients=None))


@pytest.mark.parametrize("scale", ["global", "client", "none"])
@pytest.mark.parametrize("season", [1, 4])
def test_naive_forecast(table, tiny, scale, season):
    """Whatever the scaling, the naive forecast's errors are those of the raw table, by pandas.

    Of each client's 60 rows the last 12 are for testing: 12 - 6 - 2 + 1 = 5 windows, of 2 steps ahead.
    """
    frame, settings = table
    sim = federation(tiny, settings | {"scale": scale, "season": season, "horizon": 2, "metrics": ["mase"]})
    errors, scaled = [], []
    for _, rows in frame.groupby("key"):
        y = rows["load"].to_numpy()
        training = y[: 60 - 12 - 8]  # the rows of a sample's extent before the test rows belong to neither
        naive = pd.Series(training).diff(season).abs().mean()
        for start in range(48, 53):
            last = start + 5
            own = [y[last + 1 + h] - y[last + 1 + h - season - (season if h >= season else 0)] for h in range(2)]
            errors += own
            scaled += [abs(error) / naive for error in own]
    found = rival(sim.population)
    assert found.scores["test_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)
    assert found.scores["test_mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-6)
    assert found.scores["test_mase"] == pytest.approx(np.mean(scaled), rel=1e-6)
    assert ("last value" in found.what) == (season == 1)
    assert "in the unit of 'load'" in error_unit(sim.population)


def test_naive_forecast_of_a_target_that_is_scaled_unlike_the_feature():
    """Feature: (12 - 10) / 2 = 1. Target: (12 - 0) / 4 = 3."""
    fitted = Fitted(Scaling(columns(["y"], 10, 2), columns(["y"], 0, 4)))
    of = population(samples([[0.0]], inputs=[[[5.0], [1.0]]]), fitted, Forecast(places=(0,)))
    assert naive_outputs(of).tolist() == [[3.0]]


@pytest.mark.parametrize("change", [{"season": 7}, {"feature_columns": ["heat"]}])
def test_without_a_naive_forecast(table, tiny, change):
    """A season longer than the window, or a target that is no feature: the mean of the training targets instead."""
    _, settings = table
    sim = federation(tiny, settings | change)
    assert naive_outputs(sim.population) is None
    found = rival(sim.population)
    assert found.what == "the mean of the training targets"
    targets = sim.population.test.targets.double() - sim.population.train.targets.double().mean()
    scale = sim.population.fitted.scaling.targets[0].scale
    assert found.scores["test_rmse"] == pytest.approx(float(targets.square().mean().sqrt()) * scale, rel=1e-9)


def test_most_frequent_label(tiny):
    """Training labels 2, 1, 2, ignored; test labels 2, 0, ignored, 2: two of three."""
    sim = prepare(tiny())
    train, test = (
        replace(part, targets=torch.tensor(targets))
        for part, targets in ((sim.population.train, [2, 1, 2, -100]), (sim.population.test, [2, 0, -100, 2]))
    )
    found = rival(replace(sim.population, train=train, test=test, fitted=Fitted(labels=("x", "y", "z"))))
    assert (found.what, found.scores) == ("always the most frequent label, 'z'", {"test_accuracy": 2 / 3})


def test_lines_before_training(table, tiny):
    _, settings = table
    several = federation(tiny, settings | {"target_column": ["load", "heat"]}).population
    lines = describe_scores(several)
    assert lines[0].startswith("errors: test_rmse and test_mae are over all targets, in the model's unit")
    assert lines[1].startswith("to beat: test_rmse ")
    assert "a forecast without a model: repeats the last value" in lines[1]
    assert describe_scores(prepare(tiny()).population)[0].startswith("to beat: test_accuracy ")


def test_mape_of_zero_is_refused(tmp_path):
    (tmp_path / "z.csv").write_text("y\n" + "".join(f"{k % 7}\n" for k in range(60)))
    with pytest.raises(UserError, match=r"data.metrics: mape divides .* which is 0 in \d of 7 test windows"):
        Csv(path=str(tmp_path / "z.csv"), target_column="y", window=5, metrics=["mape"]).load(0)


@pytest.mark.parametrize(
    ("field", "value", "more"),
    [
        ("season", 0, {}),
        ("season", 3, {"task": "regression"}),
        ("metrics", ["mse"], {}),
        ("metrics", ["mase", "mase"], {}),
        ("metrics", ["mase"], {"task": "classification"}),
        ("quantiles", [0.1, 0.9], {}),
        ("quantiles", [0.5, 0.1], {}),
        ("quantiles", [0.5, 1.0], {}),
        ("quantiles", [0.5], {"task": "regression"}),
    ],
)
def test_bad_settings(field, value, more):
    with pytest.raises(FieldError) as caught:
        Csv(path="x", target_column="y", **{field: value}, **more)
    assert caught.value.field == field
