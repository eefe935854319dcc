"""The invariant: ``engine=stacked`` and ``engine=sequential`` give the same rows, for every option.

Options are found by their YAML files, so that a new one is tested automatically. In the `TINY` data (conftest) clients
have 1 to 13 samples in batches of 4 and sequences of 1 to 6 steps, so that clients finish at different times and most
of the last batches are partial.
"""

import importlib.resources
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import fedsim
from fedsim.clients.engine import SequentialEngine, StackedEngine
from fedsim.data.dataset import Task
from fedsim.data.words import Words
from fedsim.errors import UserError
from fedsim.federation.prepare import prepare

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
"""Largest ``norm(a - b) / norm(b)``, from the design: about 1e6 and 1e2 times the rounding of one operation."""

_NUMBA = Path(fedsim.__file__).parent / "models" / "numba_kernels" / "__init__.py"
KERNELS = [
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(not _NUMBA.exists(), reason="there are no numba kernels yet")),
]
CLASSIFICATION, REGRESSION, LABELLING = Task.CLASSIFICATION, Task.REGRESSION, Task.SEQUENCE_LABELLING


def found(group):
    folder = Path(str(importlib.resources.files("fedsim.configs"))) / group
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    assert names, f"no options in {folder}"
    return names


SEPARATED = ("dp_ftrl", "matrix_factorisation")
NEEDS = {
    ("privacy", name): ("aggregator=mean",) for name in ("central_dp", "central_dp_adaptive", "local_dp", *SEPARATED)
}
"""Overrides without which an option is refused."""

MODELS, CORRECTIONS = found("model"), found("aggregator/correction")
OPTIMIZERS = [name for name in found("client/optimizer") if name != "adam_tables"]  # which is adam at another rate

BY_BLOCK = ("fedrep", "fedbabu")
"""Corrections that need private blocks."""
NEEDS |= {("aggregator/correction", name): ("aggregator.blocks=[-head]",) for name in BY_BLOCK}
PLAIN = ("scaffold", "mime", "mime_lite", "delta_sgd", "fedrep", "per_fedavg", "pfedme")
"""Corrections that need plain steps."""


def with_correction(aggregator, name, correction):
    return replace(aggregator, correction=correction, blocks=["-head"] if name in BY_BLOCK else aggregator.blocks)


def distance(a, b):
    return float((a - b).norm() / b.norm())


def filled(metrics):
    return {name: value for name, value in metrics.items() if value is not None}


@pytest.fixture(scope="module")
def agree(run):
    """Return ``agree(experiment)``: run both engines, compare every row of every round and everything recorded."""

    def agree(experiment):
        stacked = run(experiment)
        sequential = run(replace(experiment, engine=SequentialEngine()))
        tolerance = TOLERANCE[experiment.dtype]
        assert len(stacked.rows) == len(sequential.rows) == experiment.rounds
        for ours, theirs in zip(stacked.deltas, sequential.deltas, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert distance(a, b) <= tolerance
        for a, b in zip(stacked.rows, sequential.rows, strict=True):
            assert distance(a, b) <= tolerance
        for a, b in zip(stacked.reports, sequential.reports, strict=True):
            assert a.num_samples.tolist() == b.num_samples.tolist()
            assert a.local_steps.tolist() == b.local_steps.tolist()
            assert a.train_loss.tolist() == pytest.approx(b.train_loss.tolist(), rel=tolerance)
        for a, b in zip(stacked.metrics, sequential.metrics, strict=True):
            assert [name for name, value in a.items() if value is None] == [name for name in b if b[name] is None]
            assert filled(a) == pytest.approx(filled(b), rel=tolerance)
        return stacked

    return agree


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("over", ["targets", "positions"])
@pytest.mark.parametrize("task", [Task.CLASSIFICATION, LABELLING])
def test_class_weights(tiny, agree, task, over, dtype):
    """With full gradients too, which SCAFFOLD's first option takes of all samples of a client."""
    if task is Task.CLASSIFICATION and over == "positions":
        pytest.skip("has an effect only with a target at every step")
    settings = f"client.loss_over={over}", "client.class_weights=balanced", "model=lstm", "aggregator=mime"
    weights = prepare(tiny(*settings, task=task)).task.arch.class_weights
    assert len({*weights}) > 2
    agree(replace(tiny(*settings, task=task), dtype=dtype))


@pytest.fixture(scope="module")
def option(compose):
    """Return ``option(group, name)``, the component that ``group=name`` builds."""

    @cache
    def option(group, name):
        part = compose(*NEEDS.get((group, name), ()), f"{group}={name}", "device=cpu")
        for attribute in group.split("/"):
            part = getattr(part, attribute)
        return part

    return option


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("model", MODELS)
def test_every_model_task_and_optimizer(tiny, option, agree, model, task, optimizer, dtype):
    base = tiny(task=task)
    model = replace(option("model", model), hidden_size=5)
    client = replace(base.client, optimizer=option("client/optimizer", optimizer))
    agree(replace(base, model=model, client=client, dtype=dtype))


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("model", MODELS)
def test_every_model_sized_by_its_number_of_parameters(tiny, option, agree, model, task):
    base = tiny(task=task)
    run = agree(replace(base, model=replace(option("model", model), hidden_size=None, parameters=600, num_layers=2)))
    assert run.state.row.numel() == pytest.approx(600, rel=0.2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("model", MODELS)
def test_every_correction(tiny, option, agree, model, correction, optimizer):
    base = tiny()
    model = replace(option("model", model), hidden_size=5)
    client = replace(base.client, optimizer=option("client/optimizer", optimizer))
    aggregator = with_correction(base.aggregator, correction, option("aggregator/correction", correction))
    refused = "plain steps" if correction in PLAIN and optimizer != "sgd" else ""
    refused = "weight_decay" if (correction, optimizer) == ("fedbabu", "adamw") else refused
    if refused:
        with pytest.raises(UserError, match=refused):
            replace(base, client=client, aggregator=aggregator)
        return
    agree(replace(base, model=model, client=client, aggregator=aggregator))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("over", ["targets", "positions"])
def test_next_words(tiny, agree, kernels, over, dtype):
    """With metrics of words, weights by tokens, losses over padding too, and two buckets of unknown words."""
    settings = ("model=lstm", "aggregator.combine.by=tokens", f"client.loss_over={over}", "aggregator/correction=prox")
    base = tiny(*settings, task=LABELLING)
    data = Words(path=base.data.path, length=5, sample="window", vocabulary_size=6, oov_buckets=2, test_fraction=0.3)
    run = agree(replace(base, data=data, engine=StackedEngine(kernels=kernels), dtype=dtype))
    assert {"test_perplexity", "test_accuracy_no_oov", "test_accuracy_no_oov_no_eos", "test_recall_at_3"} <= {
        *run.metrics[0]
    }


@pytest.fixture(scope="module")
def ten(tiny, uneven):
    """Ten clients, so that rules with the defaults of their YAML have clients to spare."""
    sizes = (2, 9, 5, 1, 9, 3, 4, 7, 8, 6), (2, 0, 1, 2, 1, 3, 2, 2, 1, 2)
    return replace(tiny("data.clients=10"), partition=uneven(*sizes))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("aggregator", found("aggregator"))
def test_every_aggregator(ten, option, agree, aggregator, dtype):
    if aggregator == "fedsgd":
        ten = replace(ten, client=replace(ten.client, epochs=None, steps=1, batch_size=None))
    agree(replace(ten, aggregator=option("aggregator", aggregator), dtype=dtype))


@pytest.mark.parametrize("personalize", found("personalize"))
@pytest.mark.parametrize("task", list(Task))
def test_every_personalization(tiny, option, agree, task, personalize):
    agree(replace(tiny("sampler.cohort_size=2", task=task), personalize=option("personalize", personalize)))


@pytest.mark.parametrize(
    ("part", "name"),
    [(part, name) for part in ("combine", "server_optimizer", "correction") for name in found(f"aggregator/{part}")],
)
def test_every_part_of_an_aggregator(ten, option, agree, part, name):
    chosen = option(f"aggregator/{part}", name)
    if part == "correction":
        agree(replace(ten, aggregator=with_correction(ten.aggregator, name, chosen)))
    else:
        agree(replace(ten, aggregator=replace(ten.aggregator, **{part: chosen})))


ADAM, ADAMW, TWO_LAYERS = "client/optimizer=adam", "client/optimizer=adamw", "model.num_layers=2"
FAST = "client.optimizer.lr=0.02"
SOME = ("sampler.cohort_size=3", "rounds=4", "client.keep_optimizer_state=true")
MOMENTUM = "client.optimizer.momentum=0.9"
BOTH = ("model.bidirectional=true",)
DENSE = ("model.head_projection=4", "model.head_activation=tanh")
HEADS = ("aggregator.blocks=[recurrent]",)
SETTINGS = {
    "dropout": (CLASSIFICATION, [TWO_LAYERS, "model.dropout=0.4"]),
    "dropout, labels at every step": (LABELLING, ["model.num_layers=3", "model.dropout=0.3", "model=lstm"]),
    "no bias": (CLASSIFICATION, ["model.bias=false", TWO_LAYERS]),
    "no bias, regression": (REGRESSION, ["model.bias=false", "model=gru_reset_before", TWO_LAYERS]),
    "no bias, tokens": (LABELLING, ["model.bias=false", "model=rnn"]),
    "relu": (CLASSIFICATION, ["model=rnn", "model.nonlinearity=relu", TWO_LAYERS]),
    "embedding": (LABELLING, ["model.embedding_size=3", TWO_LAYERS]),
    "dense layer": (CLASSIFICATION, ["model.head_projection=3", ADAM, FAST]),
    "dense layer, tanh, one bias": (REGRESSION, [*DENSE, "model.gate_biases=1", "model=cifg", MOMENTUM]),
    "embedding that is the head": (LABELLING, ["model.tied_embeddings=true", "model.embedding_size=5", ADAM, FAST]),
    "tied, dense layer": (LABELLING, [*DENSE, "model.tied_embeddings=true", "model.embedding_size=4", TWO_LAYERS]),
    "tied, private recurrent layers": (
        LABELLING,
        [*DENSE, "model.tied_embeddings=true", "model.embedding_size=4", "aggregator.blocks=[embedding,head]"],
    ),
    "recurrent projection": (CLASSIFICATION, ["model=lstm", "model.recurrent_projection=3", ADAM, FAST]),
    "recurrent projection, dropout": (
        LABELLING,
        ["model=cifg", "model.recurrent_projection=3", TWO_LAYERS, "model.dropout=0.4", MOMENTUM],
    ),
    "mean": (CLASSIFICATION, ["model.pooling=mean", "model=rnn", TWO_LAYERS]),
    "max": (REGRESSION, ["model.pooling=max", "model=cifg"]),
    "attention": (CLASSIFICATION, ["model.pooling=attention", "model=lstm", ADAM, FAST]),
    "both directions": (CLASSIFICATION, [*BOTH, TWO_LAYERS, "model.dropout=0.3", MOMENTUM]),
    "both directions, projection": (REGRESSION, [*BOTH, "model=lstm", "model.recurrent_projection=3"]),
    "both directions, mean": (REGRESSION, [*BOTH, "model=gru_reset_before", "model.pooling=mean", TWO_LAYERS]),
    "one output": (REGRESSION, ["data.outputs=1"]),
    "local steps": (CLASSIFICATION, ["client.steps=7"]),
    "local steps, fewer than an epoch": (CLASSIFICATION, ["client.steps=1", "client.batch_size=3"]),
    "all samples at once": (CLASSIFICATION, ["client.batch_size=null"]),
    "one sample at a time": (LABELLING, ["client.batch_size=1", "client.epochs=1"]),
    "momentum": (CLASSIFICATION, [MOMENTUM, "client.optimizer.lr=0.1"]),
    "nesterov": (CLASSIFICATION, [MOMENTUM, "client.optimizer.nesterov=true", "client.optimizer.lr=0.1"]),
    "nesterov and decay": (
        REGRESSION,
        [MOMENTUM, "client.optimizer.nesterov=true", "client.optimizer.weight_decay=0.1"],
    ),
    "weight decay": (CLASSIFICATION, ["client.optimizer.weight_decay=0.1"]),
    "weight decay, adam": (CLASSIFICATION, [ADAM, FAST, "client.optimizer.weight_decay=0.1"]),
    "weight decay, adamw": (LABELLING, [ADAMW, FAST, "client.optimizer.weight_decay=0.5"]),
    "learning rate decay": (CLASSIFICATION, ["client.lr_decay=0.5"]),
    "learning rate decay, adam": (CLASSIFICATION, [ADAM, FAST, "client.lr_decay=0.5"]),
    "clipping": (CLASSIFICATION, ["client.clip_norm=0.1"]),
    "clipping, proximal term": (
        REGRESSION,
        ["client.clip_norm=0.5", "aggregator=fedprox", "aggregator.correction.mu=1"],
    ),
    "cohorts that keep momentum": (CLASSIFICATION, [*SOME, MOMENTUM, "client.optimizer.lr=0.1"]),
    "cohorts that keep adam": (CLASSIFICATION, [*SOME, ADAM, FAST]),
    "cohorts that keep adamw": (LABELLING, [*SOME, ADAMW, FAST]),
    "private heads": (CLASSIFICATION, ["sampler.cohort_size=3", "rounds=3", "aggregator.blocks=[recurrent]"]),
    "private embeddings": (LABELLING, ["sampler.cohort_size=3", "rounds=3", "aggregator.blocks=[recurrent,head]"]),
    "private, adam": (REGRESSION, ["aggregator=fedadam", "rounds=3", "aggregator.blocks=[head]", ADAM, FAST]),
    "private, proximal term": (
        CLASSIFICATION,
        ["aggregator=fedprox", "aggregator.correction.mu=1", *HEADS, "sampler.cohort_size=3", "rounds=3"],
    ),
    "private, scaffold": (REGRESSION, ["aggregator=scaffold", *HEADS, "sampler.cohort_size=3", "rounds=3"]),
    "private, feddyn": (LABELLING, ["aggregator=feddyn", *HEADS, "sampler.cohort_size=3", "rounds=3"]),
    "private, sharpness aware": (LABELLING, ["aggregator=fedsam", *HEADS, TWO_LAYERS, "model.dropout=0.3"]),
    "sharpness aware, dropout": (CLASSIFICATION, ["aggregator=fedsam", TWO_LAYERS, "model.dropout=0.5"]),
    "private, fine-tuned": (LABELLING, ["personalize=finetune", "aggregator.blocks=[recurrent]", "rounds=3"]),
    "all at once": (
        LABELLING,
        [
            *(*SOME, ADAM, FAST, TWO_LAYERS, "model.dropout=0.3", "client.lr_decay=0.9", "client.clip_norm=0.3"),
            *("aggregator=fedadam", "aggregator/correction=prox", "aggregator.correction.mu=0.5", "client.steps=5"),
        ],
    ),
}


@pytest.mark.parametrize("sampler", found("sampler"))
def test_every_sampler(ten, option, agree, sampler):
    agree(replace(ten, sampler=option("sampler", sampler), rounds=3))


@pytest.mark.parametrize("name", [f"{way}={name}" for way in ("up", "down") for name in found(f"link/{way}")])
def test_every_link(ten, option, agree, name):
    way, name = name.split("=")
    link = replace(ten.link, **{way: option(f"link/{way}", name)})
    agree(replace(ten, link=link, rounds=3, sampler=option("sampler", "round_robin")))


@pytest.mark.parametrize("attack", found("attack"))
def test_every_attack(ten, option, agree, attack):
    chosen = option("attack", attack)
    agree(replace(ten, attack=replace(chosen, z=1.0) if attack == "alie" else chosen))


@pytest.mark.parametrize("privacy", found("privacy"))
def test_every_privacy(ten, option, agree, privacy):
    pytest.importorskip("dp_accounting")
    aggregator = replace(ten.aggregator, combine=option("aggregator/combine", "mean"))
    chosen = option("privacy", privacy)
    chosen = replace(chosen, count_noise=5.0) if privacy == "central_dp_adaptive" else chosen
    sampler = option("sampler", "min_separation" if privacy in SEPARATED else "poisson")
    agree(replace(ten, aggregator=aggregator, privacy=chosen, sampler=sampler, rounds=3))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tiny, agree, name, dtype):
    task, overrides = SETTINGS[name]
    agree(replace(tiny(*overrides, task=task), dtype=dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("task", "by"),
    [(CLASSIFICATION, "loss"), (CLASSIFICATION, "accuracy"), (REGRESSION, "loss"), (LABELLING, "accuracy")],
)
def test_validation(tiny, uneven, agree, task, by, dtype):
    base = tiny("client.validation_fraction=0.3", "aggregator=weighted", f"aggregator.combine.by={by}", task=task)
    partition = uneven((2, 9, 5, 3, 8), (3, 0, 1, 2, 4)) if task is not LABELLING else uneven((2, 6, 4), (1, 0, 2))
    result = agree(replace(base, partition=partition, dtype=dtype))
    assert result.metrics[1]["local_validation_loss"] > 0


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("model", MODELS)
def test_kernels(tiny, agree, model, kernels):
    base = tiny(f"model={model}", TWO_LAYERS, ADAM, FAST, task=LABELLING)
    torch.set_num_threads(2 if kernels == "numba" else 1)  # until the fixture `one_thread` takes it back
    agree(replace(base, engine=StackedEngine(kernels=kernels)))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("model", "task"), [("gru", CLASSIFICATION), ("lstm", REGRESSION)])
def test_kernels_in_single_precision(tiny, agree, model, task, kernels):
    """A width of one vector register and more, and sequences of all lengths."""
    base = tiny(f"model={model}", TWO_LAYERS, "model.hidden_size=17", "dtype=float32", task=task)
    torch.set_num_threads(2 if kernels == "numba" else 1)  # until the fixture `one_thread` takes it back
    agree(replace(base, engine=StackedEngine(kernels=kernels)))
