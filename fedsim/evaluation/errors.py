"""Errors of regressions and forecasts, in the targets' own units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.data.dataset import Dataset, Forecast
from fedsim.data.fitted import Column, Fitted, arrays
from fedsim.data.population import Population, Samples

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """One metric, as numbers to be added up over samples.

    Attributes:
        name: what its column is called after the prefix.
        total: ``[S]`` float64.
        count: ``[S]`` float64, what the sum of `total` is divided by; None for a metric that is a sum.
        root: whether the metric is the square root of that.
        exponential: whether it is the exponential of that.
    """

    name: str
    total: Tensor
    count: Tensor | None
    root: bool = False
    exponential: bool = False

    def of(self, total: Tensor, count: Tensor) -> Tensor:
        """The metric, from sums; 0/0 gives NaN, and a sum over no sample is NaN."""
        if self.count is None:
            return total.where(count > 0, torch.nan)
        mean = total / count
        return mean.sqrt() if self.root else mean.exp() if self.exponential else mean

    def over_all(self) -> float:
        """The metric over all samples together."""
        count = torch.ones_like(self.total) if self.count is None else self.count
        return float(self.of(self.total.sum(), count.sum()))


def error_names(data: Dataset | Population) -> tuple[str, ...]:
    """What `measures` measures, in order, for the names of the columns."""
    forecast, targets = data.forecast or Forecast(), data.fitted.scaling.targets
    own = target_names(targets) if len(targets) > 1 else ()
    return (
        *("rmse", "mae"),
        *(f"{name}_{target}" for target in own for name in ("rmse", "mae")),
        *forecast.metrics,
        *(("pinball", "coverage") if forecast.quantiles else ()),
        *(() if data.score is None else (data.score.name,)),
    )


def target_names(targets: tuple[Column, ...]) -> list[str]:
    """Names of the targets as they are written into column names: letters, digits and underscores."""
    names = [re.sub(r"\W+", "_", column.name).strip("_") or f"target_{k}" for k, column in enumerate(targets)]
    return [name if names.count(name) == 1 else f"{name}_{k}" for k, name in enumerate(names)]


def measures(outputs: Tensor, samples: Samples, population: Population) -> list[Measure]:
    """Compare the outputs of all samples with their targets, metric by metric.

    With one target, errors are in its own unit. Targets of different units have no error in common: with several,
    ``rmse`` and ``mae`` are in the model's unit (standard deviations, if targets are scaled so), and those of each
    target, in its own unit, follow. Where quantiles are predicted, the median is judged, and ``pinball`` is the mean
    loss over quantiles (Koenker and Bassett 1978); ``coverage`` is the share of values between the lowest and the
    highest quantile, both included.

    ``mape`` is ``100 |e / y|``; ``smape`` is ``200 |e| / (|y| + |p|)``, 0 where both are 0 (as in the M4 competition;
    Makridakis et al. 2020); ``mase`` is ``|e|`` by the mean absolute error of the seasonal naive forecast in the
    client's training rows (Hyndman and Koehler 2006), and is over the clients for which that is not 0.

    Args:
        outputs: ``[S, K]``.
        samples: the S samples.
        population: whose they are.
    """
    forecast = population.forecast or Forecast()
    wide = max(len(forecast.quantiles), 1)
    shape = (len(samples), -1, max(len(population.fitted.scaling.targets), 1), wide)
    predicted = outputs.cpu().double().reshape(shape)  # [S, H, M, Q]
    true = samples.targets.cpu().double().reshape(shape)
    shift, scale = _units(population, samples)  # [G, 1, M, 1], G = 1 or S
    error = (predicted - true)[..., forecast.quantiles.index(0.5) if forecast.quantiles else 0] * scale[..., 0]
    several = shape[2] > 1
    found = _plain("", error / scale[..., 0] if several else error)
    if several:
        for k, name in enumerate(target_names(population.fitted.scaling.targets)):
            found += _plain(f"_{name}", error[:, :, k, None])
    middle = (true * scale + shift)[..., 0]
    for name in forecast.metrics:
        found.append(_extra(name, error, middle, samples, forecast))
    if forecast.quantiles:
        found += _quantiles(predicted, true, scale, forecast)
    if population.score is not None:
        found.append(Measure(population.score.name, population.score.of(error.sum((1, 2))), None))
    return found


def naive_outputs(population: Population) -> Tensor | None:
    """What the naive forecast predicts for the test samples, ``[S, K]`` as a model would; None if it cannot.

    It repeats the values of the last season: of the last row, with a season of 1. The targets must be among the
    features, and a season within the window.
    """
    forecast, test = population.forecast, population.test
    if forecast is None or None in (places := forecast.places) or not places:
        return None
    if forecast.season > int(test.lengths.min()):
        return None
    ahead = torch.arange(forecast.horizon)
    steps = test.lengths[:, None] - forecast.season + ahead % forecast.season  # [S, H]
    at = torch.tensor([place for place in places if place is not None])
    if test.starts is None:
        chosen = test.inputs.cpu()[torch.arange(len(test))[:, None, None], steps[..., None], at]  # [S, H, M]
    else:
        chosen = test.inputs.cpu()[(test.starts.cpu()[:, None] + steps)[..., None], at]
    return _as_outputs(_rescaled(chosen.double(), population), forecast)


def _rescaled(values: Tensor, population: Population) -> Tensor:
    """Bring features ``[S, H, M]`` to the units of the targets, where the two were scaled differently."""
    forecast, scaling = population.forecast, population.fitted.scaling
    if forecast is None or population.fitted.clients:
        return values  # each client's own scaling is one for features and targets
    features = [scaling.features[place] for place in forecast.places if place is not None] if scaling.features else []
    if not features or features == [*scaling.targets]:
        return values
    (a, b), (c, d) = arrays(features), arrays(scaling.targets)
    return (values * torch.from_numpy(b) + torch.from_numpy(a - c)) / torch.from_numpy(d)


def _as_outputs(values: Tensor, forecast: Forecast) -> Tensor:
    """``[S, H, M]`` as outputs ``[S, K]``, the same number for every quantile."""
    return values[..., None].expand(*values.shape, max(len(forecast.quantiles), 1)).reshape(len(values), -1)


def _units(population: Population, samples: Samples) -> tuple[Tensor, Tensor]:
    """Shift and scale of the targets, ``[G, 1, M, 1]``: of all samples together (G = 1), or of each."""
    fitted: Fitted = population.fitted
    targets = fitted.scaling.targets or (Column("target"),)
    if not fitted.clients or samples.sources is None:
        found = [arrays(targets)]
    else:
        own = dict(fitted.clients)
        found = [arrays(own[name].targets if name in own else targets) for name in population.source_names]
    shift, scale = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
    if len(found) > 1:
        assert samples.sources is not None
        shift, scale = shift[samples.sources], scale[samples.sources]
    return shift[:, None, :, None], scale[:, None, :, None]


def _plain(end: str, error: Tensor) -> list[Measure]:
    """Root mean square and mean absolute error of ``[S, H, M]``."""
    flat = error.flatten(1)
    count = torch.full((len(flat),), flat.shape[1], dtype=torch.float64)
    return [
        Measure(f"rmse{end}", flat.square().sum(1), count, root=True),
        Measure(f"mae{end}", flat.abs().sum(1), count),
    ]


def _extra(name: str, error: Tensor, true: Tensor, samples: Samples, forecast: Forecast) -> Measure:
    if name == "mape":
        ratio = 100 * error.abs() / true.abs()
    elif name == "smape":
        size = true.abs() + (true + error).abs()
        ratio = torch.where(size == 0, 0.0, 200 * error.abs() / torch.where(size == 0, 1.0, size))
    else:
        assert forecast.naive_errors is not None  # of mase
        naive = torch.from_numpy(forecast.naive_errors)
        naive = (
            naive[samples.sources] if samples.sources is not None and len(naive) > 1 else naive.expand(len(error), -1)
        )
        known = (naive > 0)[:, None].expand(error.shape)
        ratio = torch.where(known, error.abs() / torch.where(known, naive[:, None], 1.0), 0.0)
        return Measure(name, ratio.sum((1, 2)), known.double().sum((1, 2)))
    return Measure(name, ratio.sum((1, 2)), torch.full((len(ratio),), ratio[0].numel(), dtype=torch.float64))


def _quantiles(predicted: Tensor, true: Tensor, scale: Tensor, forecast: Forecast) -> list[Measure]:
    from fedsim.models.scores import pinball  # the formula of the loss

    several = true.shape[2] > 1
    error = (predicted - true) * (1.0 if several else scale)
    loss = pinball(error, torch.tensor(forecast.quantiles, dtype=torch.float64))[0].flatten(1)
    inside = (predicted[..., 0] <= true[..., 0]) & (true[..., 0] <= predicted[..., -1])

    def mean(name: str, values: Tensor) -> Measure:
        return Measure(name, values.sum(1), torch.full((len(values),), values.shape[1], dtype=torch.float64))

    return [mean("pinball", loss), mean("coverage", inside.double().flatten(1))]
