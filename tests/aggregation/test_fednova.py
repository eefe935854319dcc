"""FedNova."""

import numpy as np
import pytest

from fedsim.aggregation.fednova import FedNova
from fedsim.aggregation.weighted import Weighted
from fedsim.clients.optimizers import SGD, AdamW
from fedsim.core.part import Correction
from fedsim.corrections.feddyn import FedDyn
from fedsim.corrections.none import NoCorrection
from fedsim.corrections.proximal import Prox
from fedsim.corrections.scaffold import Scaffold
from fedsim.corrections.sharpness_aware import SharpnessAware
from fedsim.errors import FieldError, UserError
from fedsim.federation.clashes import claims_of, refuse_clashes

RNG = np.random.default_rng(11)
DELTAS, SAMPLES, NORMS = RNG.normal(size=(9, 4)), RNG.integers(1, 30, 9), RNG.uniform(1, 20, 9)


@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_fednova(combined, chunk):
    """Wang 2020, section 4: tau_eff = sum p |a|, and the step is tau_eff * sum p * delta / |a|."""
    p = SAMPLES / SAMPLES.sum()
    expected = (p @ NORMS) * (p @ (DELTAS / NORMS[:, None]))
    found = combined(FedNova(), DELTAS, chunk, samples=SAMPLES, coefficient_norm=NORMS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_equal_norms_are_fedavg(combined):
    found = combined(FedNova(), DELTAS, samples=SAMPLES, coefficient_norm=np.full(9, 7.3))
    np.testing.assert_allclose(found, combined(Weighted(), DELTAS, samples=SAMPLES), rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_tau_eff_of_the_authors_code(combined, chunk):
    """With a proximal term: tau_eff = sum p * steps, and the rest as before."""
    p, steps = SAMPLES / SAMPLES.sum(), RNG.integers(1, 20, 9)
    expected = (p @ steps) * (p @ (DELTAS / NORMS[:, None]))
    found = combined(FedNova(tau_eff="steps"), DELTAS, chunk, samples=SAMPLES, coefficient_norm=NORMS, steps=steps)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_tau_eff_without_effect(setting):
    with pytest.raises(UserError, match=r"tau_eff=steps: has an effect only with aggregator/correction=prox or"):
        FedNova(tau_eff="steps").check(setting())
    FedNova(tau_eff="steps").check(setting(correction=Prox(mu=0.3)))
    FedNova(tau_eff="steps").check(setting(optimizer=SGD(momentum=0.9)))
    with pytest.raises(FieldError, match="tau_eff=half"):
        FedNova(tau_eff="half")


def test_what_is_refused(setting):
    for wrong, why in (
        (setting(optimizer=AdamW()), "client/optimizer=adamw: aggregator/combine=fednova"),
        (setting(optimizer=SGD(momentum=0.9), keep_optimizer_state=True), "client.keep_optimizer_state=true: "),
        (setting(correction=Prox(), clip_norm=2.0), "client.clip_norm=2.0: clips the proximal term too"),
    ):
        with pytest.raises(UserError, match=why):
            FedNova().check(wrong)
    FedNova().check(setting(correction=Prox(mu=0.3), optimizer=SGD(momentum=0.9, nesterov=True)))
    FedNova().check(setting(clip_norm=2.0))


def test_corrections_whose_share_in_the_delta_is_not_known_are_refused():
    class Other(Correction):
        """A correction of somebody else's, which does not say what it does."""

    def together(correction):
        refuse_clashes(claims_of({"aggregator/combine": FedNova(), "aggregator/correction": correction}))

    for wrong, name in ((Scaffold(), "scaffold"), (FedDyn(), "feddyn"), (SharpnessAware(), "sharpness_aware")):
        message = (
            f"aggregator/correction={name}: aggregator/combine=fednova knows the coefficients .*; take .*none or prox$"
        )
        with pytest.raises(UserError, match=message):
            together(wrong)
    with pytest.raises(UserError, match=r"aggregator/correction=other: .* says otherwise in its `facts`"):
        together(Other())
    together(NoCorrection())
    together(Prox(mu=0.3))
