"""Learning rates over the rounds."""

import importlib.resources
from pathlib import Path

import pytest
import torch

from fedsim.errors import FieldError
from fedsim.server.schedules import Constant, Cosine, Exponential, InverseSqrt, Step

ROUNDS = 7


def factors(schedule):
    return [schedule.at(number, ROUNDS) for number in range(1, ROUNDS + 1)]


def by_torch(kind, **arguments):
    """The same seven learning rates by `torch.optim.lr_scheduler`."""
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = getattr(torch.optim.lr_scheduler, kind)(sgd, **arguments), []
    for _ in range(ROUNDS):
        found.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), [1] * 7),
        (Step(every=3, decay=0.1), [1, 1, 1, 0.1, 0.1, 0.1, 0.01]),
        (Step(every=3, decay=0.1), by_torch("StepLR", step_size=3, gamma=0.1)),
        (Exponential(decay=0.8), by_torch("ExponentialLR", gamma=0.8)),
        (InverseSqrt(), [1, 2**-0.5, 3**-0.5, 0.5, 5**-0.5, 6**-0.5, 7**-0.5]),
        (Cosine(), by_torch("CosineAnnealingLR", T_max=ROUNDS)),
        (Cosine(final=0.3), by_torch("CosineAnnealingLR", T_max=ROUNDS, eta_min=0.3)),
    ],
)
def test_factors(schedule, expected):
    assert factors(schedule) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Step, {"every": 0}),
        (Step, {"decay": 1.0}),
        (Step, {"decay": 0}),
        (Exponential, {"decay": 1}),
        (Exponential, {"decay": float("nan")}),
        (Cosine, {"final": 1}),
        (Cosine, {"final": -0.1}),
    ],
)
def test_values_out_of_range_are_refused(kind, values):
    with pytest.raises(FieldError, match=next(iter(values))):
        kind(**values)


def test_every_option_begins_at_one(compose):
    folder = Path(str(importlib.resources.files("fedsim.configs"))) / "aggregator/server_optimizer/schedule"
    names = [path.stem for path in folder.glob("*.yaml")]
    assert len(names) == 5
    for name in names:
        optimizer = compose(f"aggregator/server_optimizer/schedule={name}").aggregator.server_optimizer
        assert optimizer.schedule.at(1, 50) == 1
        assert all(0 < optimizer.schedule.at(number, 50) <= 1 for number in range(1, 51))
