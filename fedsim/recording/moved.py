"""Where components lie now that lay elsewhere in earlier versions, for records that name them.

A record names every component by its module. Modules have moved since; a run directory of before is read as if it had
been written today.
"""

from __future__ import annotations

from typing import Any

_MODULES = {
    "fedsim.audit.audit": "fedsim.audits.audit",
    "fedsim.audit.inversion": "fedsim.audits.inversion",
    "fedsim.audit.membership": "fedsim.audits.membership",
    "fedsim.audit.tokens": "fedsim.audits.tokens",
    "fedsim.baseline": "fedsim.baselines.baseline",
    "fedsim.clients.local": "fedsim.clients.settings",
    "fedsim.engine": "fedsim.clients.engine",
    "fedsim.experiment": "fedsim.federation.experiment",
    "fedsim.schedules": "fedsim.server.schedules",
    "fedsim.server": "fedsim.server.optimizers",
    "fedsim.stopping": "fedsim.core.stopping",
    "fedsim.system.devices": "fedsim.devices.drawn",
    "fedsim.system.profiles": "fedsim.devices.profiles",
    "fedsim.system.system": "fedsim.devices.system",
}
_CLASSES = {
    "fedsim.clients.corrections.FedDyn": "fedsim.corrections.feddyn.FedDyn",
    "fedsim.clients.corrections.NoCorrection": "fedsim.corrections.none.NoCorrection",
    "fedsim.clients.corrections.Prox": "fedsim.corrections.proximal.Prox",
    "fedsim.clients.corrections.Scaffold": "fedsim.corrections.scaffold.Scaffold",
    "fedsim.clients.corrections.SharpnessAware": "fedsim.corrections.sharpness_aware.SharpnessAware",
    "fedsim.links.link.Link": "fedsim.links.link.TwoWayLink",
    "fedsim.personalization.Ditto": "fedsim.personalization.ditto.Ditto",
    "fedsim.personalization.FineTune": "fedsim.personalization.finetune.FineTune",
    "fedsim.personalization.NoPersonalization": "fedsim.personalization.personalization.NoPersonalization",
    "fedsim.sampler.Availability": "fedsim.samplers.availability.Availability",
    "fedsim.sampler.Poisson": "fedsim.samplers.poisson.Poisson",
    "fedsim.sampler.PowerOfChoice": "fedsim.samplers.power_of_choice.PowerOfChoice",
    "fedsim.sampler.RoundRobin": "fedsim.samplers.round_robin.RoundRobin",
    "fedsim.sampler.Uniform": "fedsim.samplers.uniform.Uniform",
    "fedsim.sampler.WeightedBySize": "fedsim.samplers.weighted.WeightedBySize",
}


def moved(value: Any) -> Any:
    """The same record, with every ``_target_`` naming the component where it lies now."""
    if isinstance(value, list):
        return [moved(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found = {key: moved(entry) for key, entry in value.items()}
    if isinstance(target := found.get("_target_"), str):
        module, _, name = target.rpartition(".")
        found["_target_"] = _CLASSES.get(target, f"{_MODULES.get(module, module)}.{name}" if module else target)
    return found
