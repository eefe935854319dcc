"""What is added to local gradients."""

import pytest
import torch

from fedsim.clients.report import Memory
from fedsim.clients.step import Step
from fedsim.core.facts import Fact, facts_of
from fedsim.core.part import Correction
from fedsim.corrections.feddyn import FedDyn
from fedsim.corrections.none import NoCorrection
from fedsim.corrections.proximal import Prox
from fedsim.corrections.scaffold import Scaffold
from fedsim.corrections.sharpness_aware import SharpnessAware
from fedsim.errors import FieldError
from fedsim.models.blocks import Blocks
from fedsim.models.parameters import ParameterLayout

RNG = torch.Generator().manual_seed(0)
GRADIENT, ROWS, ANCHORS, OWN = torch.randn(4, 2, 5, generator=RNG, dtype=torch.float64)
MEAN, STEPS = torch.randn(5, generator=RNG, dtype=torch.float64), torch.tensor([3, 8])
LAYOUT = ParameterLayout.of([("recurrent.weight", (3,)), ("head.weight", (2,))])
ALL, BASE = Blocks(5), Blocks(5, torch.tensor([0, 1, 2]), torch.tensor([3, 4]))
"""Everything is shared; and the last two parameters are each client's own."""


def nowhere(rows):
    raise AssertionError("no gradient is asked for elsewhere")


def corrected(correction, anchors, blocks=ALL, at=nowhere):
    gradient, memory = GRADIENT.clone(), Memory({"own": blocks.only_shared(OWN)}, {"mean": blocks.only_shared(MEAN)})
    correction.correct(gradient, Step(ROWS.clone(), anchors, memory, 0, STEPS, LAYOUT, blocks, at))
    return gradient


@pytest.mark.parametrize("anchors", [ANCHORS, ANCHORS[0]])
def test_prox_is_the_gradient_of_the_penalty(anchors):
    """Of ``mu / 2 * |row - anchor|^2``, by autograd; anchors may be one for all or one each."""
    rows = ROWS.clone().requires_grad_()
    (0.35 * (rows - anchors).square().sum()).backward()
    torch.testing.assert_close(corrected(Prox(mu=0.7), anchors), GRADIENT + rows.grad, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("anchors", [ANCHORS, ANCHORS[0]])
def test_prox_leaves_private_parameters_alone(anchors):
    """The penalty is on the parameters that the server has; the others have no model that they could be far from."""
    rows = ROWS.clone().requires_grad_()
    (0.35 * (rows - anchors)[:, :3].square().sum()).backward()
    found = corrected(Prox(mu=0.7), anchors, BASE)
    torch.testing.assert_close(found, GRADIENT + rows.grad, rtol=1e-14, atol=1e-15)
    assert torch.equal(found[:, 3:], GRADIENT[:, 3:])


def test_no_pull():
    assert torch.equal(corrected(Prox(mu=0), ANCHORS), GRADIENT)
    assert torch.equal(corrected(NoCorrection(), ANCHORS), GRADIENT)
    assert (Prox(mu=0.7).pull, NoCorrection().pull) == (0.7, 0)


def test_a_negative_pull_is_refused():
    with pytest.raises(FieldError, match="mu"):
        Prox(mu=-0.1)


def test_scaffold():
    """Karimireddy 2020, Algorithm 1: ``g - c_i + c`` (line 10) and option II of line 12; ``x - y_i = -delta``."""
    torch.testing.assert_close(corrected(Scaffold(), ANCHORS), GRADIENT - OWN + MEAN, rtol=1e-14, atol=1e-15)
    kept = Scaffold().remember(OWN, MEAN, ROWS, STEPS, 0.2)
    for k, taken in enumerate((3, 8)):
        torch.testing.assert_close(kept[k], OWN[k] - MEAN + -ROWS[k] / (taken * 0.2), rtol=1e-14, atol=1e-15)
    assert torch.equal(Scaffold().adjust(GRADIENT[0], MEAN), GRADIENT[0])


def test_scaffold_leaves_private_parameters_alone():
    found = corrected(Scaffold(), ANCHORS, BASE)
    torch.testing.assert_close(found[:, :3], (GRADIENT - OWN + MEAN)[:, :3], rtol=1e-14, atol=1e-15)
    assert torch.equal(found[:, 3:], GRADIENT[:, 3:])


def test_feddyn():
    """Acar 2021, Algorithm 1: the gradient of ``-<g_i, y> + alpha / 2 * |y - x|^2``, ``g_i - alpha * (y - x)``, and
    the server's ``-h / alpha``."""
    rows = ROWS.clone().requires_grad_()
    (-(OWN * rows).sum() + 0.15 * (rows - ANCHORS).square().sum()).backward()
    feddyn = FedDyn(alpha=0.3)
    torch.testing.assert_close(corrected(feddyn, ANCHORS), GRADIENT + rows.grad, rtol=1e-14, atol=1e-15)
    kept = feddyn.remember(OWN, MEAN, ROWS, STEPS, 0.2)
    torch.testing.assert_close(kept, OWN - 0.3 * ROWS, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(feddyn.adjust(GRADIENT[0], MEAN), GRADIENT[0] - MEAN / 0.3, rtol=1e-14, atol=1e-15)


def test_feddyn_leaves_private_parameters_alone():
    found = corrected(FedDyn(alpha=0.3), ANCHORS, BASE)
    expected = (GRADIENT - OWN + 0.3 * (ROWS - ANCHORS))[:, :3]
    torch.testing.assert_close(found[:, :3], expected, rtol=1e-14, atol=1e-15)
    assert torch.equal(found[:, 3:], GRADIENT[:, 3:])


def test_feddyn_needs_strength():
    with pytest.raises(FieldError, match="alpha"):
        FedDyn(alpha=0)


@pytest.mark.parametrize("blocks", [ALL, BASE])
def test_sharpness_aware(blocks):
    """Foret 2021, eq. 2 to 4: the gradient at ``row + rho * g / |g|``, over all parameters, the private ones too."""
    found = corrected(SharpnessAware(rho=0.4), ANCHORS, blocks, at=lambda rows: rows**3)
    worse = ROWS + 0.4 * GRADIENT / (GRADIENT**2).sum(1, keepdim=True) ** 0.5
    torch.testing.assert_close(found, worse**3, rtol=1e-13, atol=1e-15)


def test_sharpness_aware_where_there_is_no_slope():
    """A gradient of zero has no worse place: the one at the row is taken."""
    gradient = torch.zeros_like(GRADIENT)
    step = Step(ROWS, ANCHORS, None, 0, STEPS, LAYOUT, ALL, lambda rows: rows**3)
    SharpnessAware(rho=0.4).correct(gradient, step)
    assert torch.equal(gradient, ROWS**3)


def test_sharpness_aware_needs_a_distance():
    with pytest.raises(FieldError, match="rho"):
        SharpnessAware(rho=0)


def test_a_correction_of_ones_own_writes_one_function():
    class Shrink(Correction):
        def correct(self, gradient, step):
            gradient.add_(step.rows)

    shrink = Shrink()
    assert isinstance(shrink, Correction)
    assert (shrink.pull, shrink.gradients, shrink.held_rows) == (0, 1, 0)
    assert (shrink.start(MEAN), shrink.recall(STEPS, None)) == ({}, None)
    assert torch.equal(shrink.settle(MEAN, None), MEAN)
    assert torch.equal(corrected(shrink, ANCHORS), GRADIENT + ROWS)
    assert facts_of("aggregator/correction", shrink).keys() == {Fact.BENDS, Fact.REMEMBERS}  # for what it may do
