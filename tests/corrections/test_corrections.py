"""What is added to local gradients."""

import pytest
import torch

from fedsim.core.part import Correction
from fedsim.corrections.feddyn import FedDyn
from fedsim.corrections.none import NoCorrection
from fedsim.corrections.proximal import Prox
from fedsim.errors import FieldError

RNG = torch.Generator().manual_seed(0)
GRADIENT, ROWS, ANCHORS = torch.randn(3, 2, 5, generator=RNG, dtype=torch.float64)


def corrected(correction, anchors):
    gradient = GRADIENT.clone()
    correction.correct(gradient, ROWS, anchors, None)
    return gradient


@pytest.mark.parametrize("anchors", [ANCHORS, ANCHORS[0]])
def test_prox_is_the_gradient_of_the_penalty(anchors):
    """Of ``mu / 2 * |row - anchor|^2``, by autograd; anchors may be one for all or one each."""
    rows = ROWS.clone().requires_grad_()
    (0.35 * (rows - anchors).square().sum()).backward()
    torch.testing.assert_close(corrected(Prox(mu=0.7), anchors), GRADIENT + rows.grad, rtol=1e-14, atol=1e-15)


def test_no_pull():
    assert torch.equal(corrected(Prox(mu=0), ANCHORS), GRADIENT)
    assert torch.equal(corrected(NoCorrection(), ANCHORS), GRADIENT)


def test_a_negative_pull_is_refused():
    with pytest.raises(FieldError, match="mu"):
        Prox(mu=-0.1)


def test_a_correction_of_ones_own_writes_one_function():
    class Shrink(Correction):
        def correct(self, gradient, rows, anchors, memory):
            gradient.add_(rows)

    shrink = Shrink()
    assert isinstance(shrink, Correction)
    assert (shrink.remembers, shrink.extra_down, shrink.extra_up) == (False, 0, 0)
    assert torch.equal(corrected(shrink, ANCHORS), GRADIENT + ROWS)


def test_feddyn_needs_strength():
    with pytest.raises(FieldError, match="alpha"):
        FedDyn(alpha=0)
