"""Several processes give the numbers of one, to rounding, for every option.

Two processes are started once and run all experiments one after another; a single process runs them too.
"""

import copy
import importlib.resources
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedsim import build
from fedsim.config import compose as config

CONFIGS = Path(str(importlib.resources.files("fedsim.configs")))

SMALL = (
    *("data=synthetic", "data.clients=10", "data.samples_per_client=5", "data.test_samples_per_client=2"),
    *("data.length=3", "data.features=2", "partition=quantity", "num_clients=10", "model.hidden_size=2"),
    *("client.epochs=1", "rounds=3", "client.batch_size=2", "engine.kernels=torch", "device=cpu", "threads=1"),
    *("console=none", "checkpoint=none", "dtype=float64", "seed=3"),
)
KEEPING = ("client.keep_optimizer_state=true",)
GROUPS = {
    **dict.fromkeys(("aggregator", "aggregator/combine", "aggregator/correction", "aggregator/server_optimizer"), ()),
    **{
        "client/optimizer": (),
        "sampler": ("aggregator=feddyn",),
        "engine": (*KEEPING, "client.optimizer.momentum=0.5", "aggregator=fedadam"),
    },
    **{"model": ("model.dropout=0.3", "model.num_layers=2"), "personalize": (), "client": (), "baseline": ()},
    **{"stop": ("stop.patience=9",), "aggregator/server_optimizer/schedule": ("rounds=12",), "link": ()},
    **{"link/up": ("aggregator=mean",), "link/down": ("aggregator=mean",), "attack": ("aggregator=median",)},
    **{"privacy": ("aggregator=mean", "sampler=poisson"), "audit": ()},
    "schedule": ("system=devices", "system.gflops_spread=2", "system.dropout=0.2", "sampler.fraction=0.5"),
    "schedule/staleness": ("schedule=fedbuff", "system=devices", "system.gflops_spread=2"),
    "system": ("sampler.fraction=0.5", "aggregator=scaffold", "link/down=quantize"),
}
"""Further overrides for each option of a group."""

NEEDS = {
    **dict.fromkeys(
        ("aggregator=fedsgd", "client=full_batch"), ("client.epochs=null", "client.steps=1", "client.batch_size=null")
    ),
    "client/optimizer=sgd": ("client.optimizer.momentum=0.5", *KEEPING),
    **dict.fromkeys(("client/optimizer=adam", "client/optimizer=adamw"), KEEPING),
    "aggregator=local": ("personalize=none",),
    **dict.fromkeys(("aggregator/correction=fedrep", "aggregator/correction=fedbabu"), ("aggregator.blocks=[-head]",)),
    "schedule=flhc": ("schedule.after=1",),
    "schedule=hierfavg": ("schedule.backhaul_mbps=1", "schedule.cloud_every=2"),
    "sampler=power_of_choice": ("sampler.fraction=0.25",),
    "sampler=poisson": ("sampler.probability=0.15",),  # rounds in which a process has no client, or none has
    "attack=alie": ("attack.z=1",),
    "privacy=central_dp_adaptive": ("privacy.count_noise=5",),
    **dict.fromkeys(("privacy=dp_ftrl", "privacy=matrix_factorisation"), ("sampler=min_separation",)),
    "privacy=none": ("sampler=uniform",),
    "audit=inversion": ("client.epochs=null", "client.steps=1", "client.batch_size=1", "audit.clients=3"),
    "system=devices": ("system.over_selection=1.5", "system.dropout=0.2", "system.availability=0.8"),
    "system=profiles": ("system.path=devices.csv", "system.deadline=1.1", "system.late=partial"),
}
BROKEN = ("client.optimizer.lr=1e300", "client.optimizer.weight_decay=1e10", "rounds=9")
TOO_FAR = ("client.optimizer.lr=200", "attack=scale", "attack.factor=1e308")
"""Attackers whose rows are infinite even in float64."""
MORE = {
    "a cohort of one": ("sampler.cohort_size=1", "aggregator=median", "aggregator/correction=feddyn"),
    "a cohort of one, forged": ("sampler.cohort_size=1", "attack=ipm", "attack.fraction=0.5", "rounds=6"),
    "weights by accuracy": ("client.validation_fraction=0.4", "aggregator=weighted", "aggregator.combine.by=accuracy"),
    "a backdoor": ("attack=backdoor", "aggregator=norm_clipping"),
    "everything kept": (
        *(*KEEPING, "client/optimizer=adam", "personalize=ditto", "link/up=topk", "link.up.error_feedback=true"),
        *("aggregator=feddyn", "sampler.fraction=0.5", "rounds=4"),
    ),
    "masks, some of them in vain": (
        *("attack=ipm", "privacy=secure_aggregation", "privacy.bits=53", "aggregator=mean", "rounds=9"),
        *("system=devices", "system.dropout=0.4"),
    ),
    "rows rejected from a sum": (*TOO_FAR, "aggregator=fedavg"),
    "rows rejected from a matrix": (*TOO_FAR, "aggregator=feddyn", "aggregator/combine=multi_krum"),
    "all rows rejected": (*TOO_FAR, "attack.fraction=1", "aggregator=scaffold"),
    "held out": ("eval.validation_fraction=0.3", "eval.unseen_clients=3", "personalize=ditto", "sampler.fraction=0.5"),
    "some evaluated": ("eval.clients=3", "eval.validation_fraction=0.3", "aggregator.blocks=[recurrent]"),
    "private blocks": ("aggregator.blocks=[recurrent]", "personalize=finetune", "sampler.fraction=0.5"),
    "clusters, a rule of the whole cohort": ("seed=7", "schedule=ifca", "schedule.models=3", "aggregator=median"),
    "clusters, forged": (*TOO_FAR, "schedule=flhc", "schedule.after=1"),
    "edges, forged": (*TOO_FAR, "schedule=hierfavg", "schedule.edges=3", "sampler.fraction=0.5"),
    "diverges at an edge": (*BROKEN, "schedule=hierfavg"),
    "gossip, held out": ("schedule=dpsgd", "aggregator=mean", "eval.unseen_clients=3", "eval.validation_fraction=0.3"),
    "diverges without a server": (*BROKEN, "schedule=dpsgd", "aggregator=mean"),
    "diverges": BROKEN,
    "diverges on one side": (*BROKEN, "sampler.cohort_size=1", "aggregator=median"),
}
DEVICES = "gflops,down_mbps,up_mbps\n1,20,5\n0.000003,0.01,0.01\n"


def cases():
    every = config.list_options()
    for group, more in GROUPS.items():
        for option in every[group]:
            chosen = f"{group}={option}"
            if chosen == "audit=tokens":  # needs text
                continue
            if chosen == "schedule=dpsgd":  # has no server for which devices or a sampler would be
                yield chosen, (chosen, "aggregator=mean")
                continue
            yield chosen, (chosen, *more, *NEEDS.get(chosen, ()))
    yield from MORE.items()


CASES = dict(cases())


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def start(size, folder, records):
    """Start processes that run the experiments of these records; rank 0 writes the results."""
    (folder / "records.json").write_text(json.dumps(records))
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    worker = Path(__file__).with_name("distributed_worker.py")
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", worker],
            cwd=folder,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


def record_of(compose, overrides):
    """The record of a case; if only one part differs, it is put into the base's record, since composing takes 0.1 s."""
    option, *more = overrides
    group, _, name = option.partition("=")
    needs = NEEDS.get(option, ())
    part = CONFIGS / group / f"{name}.yaml"
    if not part.exists() or "defaults" in OmegaConf.load(part) or any("=" in text.split(".")[0] for text in needs):
        small = [text for text in SMALL if not (option == "engine=sequential" and text.startswith("engine."))]
        return build.record_of(compose(*small, *overrides))
    base = compose(*SMALL, *[text for text in more if text not in needs])
    record = OmegaConf.create(copy.deepcopy(build.record_of(base)))
    OmegaConf.update(record, group.replace("/", "."), OmegaConf.load(part), merge=False)
    for key, _, value in (text.partition("=") for text in needs):
        OmegaConf.update(record, key, OmegaConf.create(f"value: {value}").value)
    return OmegaConf.to_container(record)


@pytest.fixture(scope="module")
def results(compose, tmp_path_factory):
    """The results of two processes and of one for every case: ``{case: (two, one)}``, each with its rounds."""
    pytest.importorskip("dp_accounting")
    folder = tmp_path_factory.mktemp("together")
    (folder / "devices.csv").write_text(DEVICES)
    records = {name: record_of(compose, overrides) for name, overrides in CASES.items()}
    two = start(2, folder, records)
    alone = tmp_path_factory.mktemp("alone")
    (alone / "devices.csv").write_text(DEVICES)
    one = start(1, alone, records)
    try:
        ends = [(process.communicate(timeout=300)[0], process.returncode) for process in (*two, *one)]
    finally:
        for process in (*two, *one):
            process.kill()
            process.communicate()
    assert ends == [("", 0)] * 3
    found = [json.loads((place / "results.json").read_text()) for place in (folder, alone)]
    return {name: tuple(result[name] for result in found) for name in CASES}


def filled(row):
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_numbers_of_one(results, name):
    two, one = results[name]
    assert two["reason"].partition(" (and")[0] == one["reason"].partition(" (and")[0]  # then: of how many clients
    assert ("no longer finite" in one["reason"]) == name.startswith("diverges")
    assert len(two["metrics"]) == len(one["metrics"]) > 0
    for a, b in zip(two["metrics"], one["metrics"], strict=True):
        assert set(filled(a)) == set(filled(b))
        # With two clients or more, the drift is a difference of sums, and zero if they agree.
        assert filled(a) == pytest.approx(filled(b), rel=1e-10, abs=1e-10)
    assert two["clients"] == pytest.approx(one["clients"], rel=1e-10, nan_ok=True)


def test_all_processes_hold_the_same_state(results):
    """Bit for bit, stores included: `same` is whether the states agree that the processes exchanged at the end."""
    assert all(two["same"] for two, _ in results.values())


def test_work_is_shared(results):
    """Rows are gathered only for rules and attacks that look at them, and memories only if clients keep them."""
    two, one = results["aggregator=fedavg"]
    assert (one["added_up"], one["gathered"]) == (0, 0)
    parameters, rounds = two["parameters"], 3
    # Two weighted sums and the spread; their weights and its two numbers; whether a client has diverged.
    assert two["added_up"] == rounds * 8 * (3 * parameters + 2 + 2 + 1)
    rows = results["aggregator=median"][0]
    assert rows["added_up"] == 0
    # The half that the other process trained, with three numbers of a report each; then memories with client numbers.
    assert rows["gathered"] - two["gathered"] == rounds * 5 * 8 * (parameters + 3)
    assert results["aggregator=feddyn"][0]["gathered"] - two["gathered"] == rounds * 5 * 8 * (parameters + 1)


def test_no_group_is_left_out():
    assert set(config.list_options()) - set(GROUPS) == {
        "checkpoint",
        "console",
        "data",
        "experiment",
        "partition",
        "tracker",
    }
