"""Composing, checking and recording: types and ranges of every field, the jobs of a sweep, and the record."""

import copy
import dataclasses
import functools
import math

import pytest
from omegaconf import OmegaConf

from fedsim import build
from fedsim.config import compose as config
from fedsim.config import loader as safe_loader
from fedsim.config import request
from fedsim.errors import FieldError, UserError
from fedsim.federation.experiment import Experiment

BASE = ("data=synthetic", "partition=natural", "engine.kernels=torch")


@functools.cache
def composed(*overrides):
    """A composed config as plain data, without Hydra's part."""
    cfg = config.compose(config.make_loader(None), [*BASE, *overrides])
    return {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "hydra"}


@pytest.fixture
def complaint():
    """Return ``complaint(text, *overrides)``: the error for ``KEY=VALUE`` in the config of `overrides`."""

    def complain(text, *overrides):
        content = copy.deepcopy(composed(*overrides))
        key, value = text.split("=", 1)
        *parents, last = key.split(".")
        node = functools.reduce(dict.__getitem__, parents, content)
        assert last in node
        node[last] = safe_loader.parse(f"x={value}").value()
        for pair in (pair for pair in request.EXCLUSIVE if key in pair):
            node[pair[pair.index(key) - 1].split(".")[-1]] = None
        with pytest.raises(UserError) as error:
            build.build(content, Experiment)
        return str(error.value)

    return complain


def cases(table):
    return [(key, value) for key, values in table.items() for value in values]


WRONG_TYPES = {
    "model.hidden_size": ("1.5", "8.0", "abc", "true", "[1]", "{a:1}", "'5.0'", "1e3", "nan", "''"),
    "model.parameters": ("1.5", "1e4", "many", "true", "[1]"),
    "rounds": ("1e3", "50.0", "false", "ten"),
    "num_clients": ("1.0", "ten", "[3]"),
    "seed": ("1.0", "abc", "null", "[1,2]", "'1,2'"),
    "client.batch_size": ("abc", "0.5", "false"),
    "client.optimizer.lr": ("abc", "true", "[0.1]", "null", "{a:1}", "1" * 400, "''"),
    "model.bias": ("2", "maybe", "1.0", "null", "[true]", "yes", "''"),
    "engine.kernels": ("[numba]", "{a:1}", "null"),
    "tags": ("5", "abc", "null", "[a,[b]]", "{a:b}", "[null]"),
    "name": ("[a]", "{a:b}"),
}


@pytest.mark.parametrize(("key", "value"), cases(WRONG_TYPES))
def test_wrong_types(complaint, key, value):
    line = complaint(f"{key}={value}")
    assert line.startswith(f"{key}=")
    assert ": must be " in line


OUT_OF_RANGE = {
    "seed": ("-1", "9223372036854775808", "1" * 40),
    "rounds": ("0", "-5", "2147483648", "1" * 40),
    "num_clients": ("0", "-1", "1" * 30),
    "threads": ("0", "-1", "1025", "1" * 30),
    "device": ("tpu", "cuda:0", "''"),
    "dtype": ("float16", "double", "''"),
    "eval.every": ("0", "-1"),
    "model.hidden_size": ("0", "-1", "2147483648"),
    "model.parameters": ("0", "-1", "2147483648"),
    "model.num_layers": ("0", "-1"),
    "model.dropout": ("-0.1", "1", "1.5", "nan", "inf", "-inf"),
    "client.epochs": ("0", "-1"),
    "client.batch_size": ("0", "-1"),
    "client.lr_decay": ("0", "-1", "nan", "inf"),
    "client.clip_norm": ("0", "-1", "nan", "inf"),
    "client.validation_fraction": ("-0.1", "1", "nan", "inf"),
    "client.optimizer.lr": ("0", "-1", "nan", "inf", "-inf", "1e400", "1e-400"),
    "client.optimizer.momentum": ("-0.1", "1", "nan"),
    "client.optimizer.weight_decay": ("-0.1", "nan", "inf"),
    "sampler.fraction": ("0", "-0.5", "1.01", "nan", "inf"),
    "aggregator.combine.by": ("median", "''"),
    "aggregator.server_optimizer.lr": ("0", "nan", "inf"),
    "engine.kernels": ("nmba", "''"),
    "engine.memory_budget": ("abc", "5", "0GiB", "-1GiB", "infGiB", "1e9GiB", "1023KiB"),
    "stop.mode": ("down",),
    "stop.target": ("nan", "inf", "-inf"),
    "stop.patience": ("0", "-1"),
    "checkpoint.every": ("0", "-1"),
    "console.mode": ("loud",),
    "data.task": ("labelling",),
    "data.clients": ("0",),
    "data.samples_per_client": ("0",),
    "data.test_samples_per_client": ("0",),
    "data.length": ("0",),
    "data.min_length": ("0", "21"),
    "data.features": ("0",),
    "data.classes": ("1",),
    "data.outputs": ("2", "0"),
    "data.alpha": ("-1", "nan", "inf"),
    "data.beta": ("-0.5", "nan", "inf"),
    "data.noise": ("-0.1", "nan", "inf"),
}


@pytest.mark.parametrize(("key", "value"), cases(OUT_OF_RANGE))
def test_out_of_range(complaint, key, value):
    line = complaint(f"{key}={value}")
    assert line.startswith(f"{key}=")
    assert "must be" in line or "has no effect" in line


OTHER_PARTS = {
    "client/optimizer=adam": (
        "lr=0",
        "lr=nan",
        "beta1=1",
        "beta1=-0.1",
        "beta2=1",
        "eps=0",
        "eps=nan",
        "weight_decay=-1",
    ),
    "client/optimizer=adamw": ("lr=inf", "beta1=nan", "beta2=2", "eps=-1", "weight_decay=nan"),
    "aggregator=fedavgm": ("server_optimizer.lr=0", "server_optimizer.beta=1", "server_optimizer.beta=-0.1"),
    "aggregator=fedadam": ("server_optimizer.lr=0", "server_optimizer.beta1=1", "server_optimizer.tau=0"),
    "aggregator=fedprox": ("correction.mu=-1", "correction.mu=nan", "correction.mu=inf"),
    "partition=dirichlet": ("alpha=0", "alpha=-1", "alpha=nan", "alpha=inf", "min_samples=0"),
    "model=rnn": ("nonlinearity=gelu", "hidden_size=0"),
    "data=text": ("path=null", "path=''"),
    "data=text data.path=x": (
        *("sequence_length=0", "clients_by=role", "test_fraction=0", "test_fraction=1", "chunk_size=5", "chunk_size=1"),
    ),
}


@pytest.mark.parametrize(("option", "field"), cases(OTHER_PARTS))
def test_out_of_range_in_other_parts(complaint, option, field):
    group = option.split("=")[0].replace("/", ".")
    line = complaint(f"{group}.{field}", *option.split())
    assert line.startswith(f"{group}.{field.split('=')[0]}=")


def numeric_fields(component, prefix=""):
    for field in dataclasses.fields(component):
        value, path = getattr(component, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from numeric_fields(value, f"{path}.")
        elif "float" in str(field.type) or "int" in str(field.type):
            yield path


PRESETS = (
    "aggregator=fedadam client/optimizer=adam partition=dirichlet",
    "aggregator=fedavgm client/optimizer=adamw",
    "aggregator=fedprox data=text data.path=x",
)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "abc", "[]"])
def test_every_number_refuses_some_value(complaint, preset, value):
    experiment = build.build(composed(*preset.split()), Experiment)
    fields = list(numeric_fields(experiment))
    assert len(fields) > 20
    for key in fields:
        if (key, value) in (("stop.target", "-1"), ("aggregator.combine.power", "-1")):
            continue  # a loss or another score may be negative, and so may an exponent
        assert complaint(f"{key}={value}", *preset.split()).startswith(f"{key}=")


# Values that a field accepts


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        ("3", int, 3),
        (3, float, 3.0),
        ("1e-3", float, 0.001),
        (1e-8, float, 1e-8),
        (True, bool, True),
        ("false", bool, False),
        (0, bool, False),
        (5, str, "5"),
        (0.5, str, "0.5"),
        ("héllo ${x}", str, "héllo ${x}"),
        (None, int | None, None),
        (3, int | None, 3),
        (3, float | None, 3.0),
        ([1, "2"], list[str], ["1", "2"]),
        ([], list[str], []),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
    ],
)
def test_conversions(value, hint, expected):
    converted = build.convert("key", value, hint)
    assert converted == expected
    assert type(converted) is type(expected)


def test_the_best_fitting_of_several_types():
    assert build.convert("key", "all", int | str) == "all"
    assert build.convert("key", 3, str | int) == 3
    assert build.convert("key", 0.5, int | float) == 0.5


# Components


@dataclasses.dataclass
class Part:
    size: int
    other: Experiment | None = None

    def __post_init__(self):
        if self.size == 1:
            raise FieldError("size", self.size, "must not be 1")
        if self.size == 2:
            raise ValueError("two is not a size")


def test_a_component_words_its_own_errors():
    assert build.build({"size": 3, "other": None}, Part) == Part(3)
    with pytest.raises(UserError, match=r"^part\.size=1: must not be 1$"):
        build.build({"size": 1}, Part, "part")
    with pytest.raises(UserError, match=r"^part: two is not a size$"):
        build.build({"size": 2}, Part, "part")
    with pytest.raises(UserError, match=r"^part\.size: is missing$"):
        build.build({}, Part, "part")


def test_a_component_of_another_kind_is_refused():
    node = composed()["client"]["optimizer"]
    with pytest.raises(UserError, match=r"^model: SGD is not a RecurrentModel$"):
        build.build(copy.deepcopy(composed()) | {"model": node}, Experiment)


# Jobs of a sweep


def jobs(*overrides, multirun=True):
    request = config.Request((*BASE, *overrides), multirun)
    return config.check_request(config.normalise(request))


def test_a_grid_in_order():
    found = jobs("model=rnn,gru", "seed=1,2")
    assert [(type(j.experiment.model).__name__, j.experiment.seed) for j in found] == [
        ("RNN", 1),
        ("RNN", 2),
        ("GRU", 1),
        ("GRU", 2),
    ]
    assert [job.directory.name for job in found] == ["0", "1", "2", "3"]
    assert len({job.directory.parent for job in found}) == 1  # one time for all


@pytest.mark.parametrize(
    ("sweep", "seeds"),
    [("range(1,4)", [1, 2, 3]), ("choice(5,3)", [5, 3]), ("sort(3,1,2)", [1, 2, 3]), ("7", [7])],
)
def test_sweep_functions(sweep, seeds):
    assert [job.experiment.seed for job in jobs(f"seed={sweep}")] == seeds


def test_a_glob_over_options():
    found = jobs("model=glob(*)")
    assert [type(j.experiment.model).__name__ for j in found] == ["CIFG", "GRU", "GRUResetBefore", "LSTM", "RNN"]


def test_exclusive_pairs_in_a_sweep():
    found = jobs("client.steps=3,5", "sampler.cohort_size=2")
    assert [(j.experiment.client.steps, j.experiment.client.epochs) for j in found] == [(3, None), (5, None)]
    assert found[0].experiment.sampler.fraction is None


def test_a_key_of_the_chosen_option():
    aggregators = [j.experiment.aggregator for j in jobs("aggregator=fedprox", "aggregator.correction.mu=0.1,0.2")]
    assert [a.correction.mu for a in aggregators] == [0.1, 0.2]


def test_interpolations_are_resolved(monkeypatch):
    monkeypatch.setenv("FEDSIM_SEED", "12")
    (job,) = jobs("name=seed_${seed}", "seed=${oc.env:FEDSIM_SEED}", "tags=[a,${name}]", multirun=False)
    assert job.experiment.seed == 12
    assert job.experiment.name == "seed_12"
    assert job.experiment.tags == ["a", "seed_12"]


def test_parts_are_swapped_without_leftovers():
    (job,) = jobs("aggregator=fedadam", "aggregator/combine=mean", "aggregator/correction=prox", multirun=False)
    parts = job.experiment.aggregator
    assert [type(p).__name__ for p in (parts.combine, parts.server_optimizer, parts.correction)] == [
        "Mean",
        "Adam",
        "Prox",
    ]


# The record


RECORDED = (
    (),
    ("aggregator=fedadam", "client/optimizer=adam", "model=rnn", "partition=dirichlet"),
    ("experiment=gru_regression", "tags=[a,b]", "threads=2", "client.optimizer.lr=1e-08"),
    ("name='1e3'", "tags=['1','null',' x ','#','true','[a]']", "data.alpha=0.30000000000000004"),
    ("name='\\${seed}'", "tags=['\\${oc.env:HOME}','a: b']"),
    ("name='héllo wörld\n\"\\x'", "seed=9223372036854775807"),
)


@pytest.mark.parametrize("overrides", RECORDED)
def test_the_record_rebuilds_the_same_experiment(overrides):
    (job,) = jobs(*overrides, multirun=False)
    read = OmegaConf.create(config.to_yaml(config.record_of(job.experiment)))
    assert read.pop("format_version") == config.FORMAT_VERSION
    assert config.build_experiment(read) == job.experiment


def test_an_escaped_interpolation_stays_text():
    (job,) = jobs("name='\\${seed}'", multirun=False)
    assert job.experiment.name == "${seed}"


def test_experiments_share_no_state():
    first = jobs("model.hidden_size=3", multirun=False)[0].experiment
    assert jobs(multirun=False)[0].experiment.model.hidden_size == 64
    assert first.model.hidden_size == 3
    assert not math.isnan(first.client.optimizer.lr)
