"""FedAtt."""

import numpy as np
import pytest
import torch

from fedsim.aggregation.fedatt import FedAtt
from fedsim.aggregation.mean import Mean
from fedsim.data.dataset import Task
from fedsim.errors import FieldError, UserError
from fedsim.models.blocks import divide_parameters
from fedsim.models.parameters import ParameterLayout

RNG = np.random.default_rng(12)
SHAPES = [("embedding.weight", (3, 2)), ("recurrent.weight_ih_l0", (2, 2)), ("recurrent.bias_ih_l0", (2,))]
LAYOUT = ParameterLayout.of([*SHAPES, ("head.weight", (1, 2)), ("head.bias", (1,))])
DELTAS = RNG.normal(size=(5, LAYOUT.num_parameters))


def algorithm_1(server, clients, epsilon=1.0):
    """Ji 2019, Algorithm 1, on lists of layers: ``w^l - epsilon * sum_k alpha_k^l (w^l - w_k^l)``."""
    moved = []
    for layer, w in enumerate(server):
        s = np.array([np.sqrt(((w - client[layer]) ** 2).sum()) for client in clients])
        alpha = np.exp(s) / np.exp(s).sum()
        moved.append(w - epsilon * sum(a * (w - client[layer]) for a, client in zip(alpha, clients, strict=True)))
    return moved


def layers(row, names, layout=LAYOUT):
    """A row as a list of layers: the parameters whose name begins with each of `names`."""
    return [np.concatenate([row[at] for key, at in layout.slices.items() if key.startswith(name)]) for name in names]


@pytest.mark.parametrize(("per", "names"), [("parameter", LAYOUT.names), ("block", ("embedding", "recurrent", "head"))])
@pytest.mark.parametrize("chunk", [1, 3])
def test_algorithm_1(combined, per, names, chunk):
    server = RNG.normal(size=LAYOUT.num_parameters)
    expected = algorithm_1(layers(server, names), [layers(server + delta, names) for delta in DELTAS])
    found = combined(FedAtt(per=per).on_layers(LAYOUT.slices), DELTAS, chunk)
    for ours, theirs in zip(layers(server + found, names), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    other = FedAtt(per="block" if per == "parameter" else "parameter").on_layers(LAYOUT.slices)
    assert not np.allclose(found, combined(other, DELTAS))


def test_deltas_of_one_length_are_averaged(combined):
    rows = DELTAS / np.linalg.norm(DELTAS, axis=1, keepdims=True)
    np.testing.assert_allclose(combined(FedAtt(), rows), combined(Mean(), rows), rtol=1e-12)


def test_long_deltas_do_not_overflow(combined):
    """exp(1e4) is infinite; the softmax of such lengths is the longest row."""
    rows = 1e4 * DELTAS
    longest = np.linalg.norm(rows, axis=1).argmax()
    np.testing.assert_allclose(combined(FedAtt(), rows), rows[longest], rtol=1e-12)


def test_layers_of_a_part_of_the_model():
    """With private blocks, deltas hold the other parameters one after another."""
    blocks = divide_parameters(LAYOUT, ["embedding", "head"], torch.device("cpu"))
    assert blocks.slices(LAYOUT) == {
        "embedding.weight": slice(0, 6),
        "head.weight": slice(6, 8),
        "head.bias": slice(8, 9),
    }
    row = torch.arange(LAYOUT.num_parameters)
    for name, place in blocks.slices(LAYOUT).items():
        assert torch.equal(blocks.cut(row)[place], row[LAYOUT.slices[name]])
    assert divide_parameters(LAYOUT, None, torch.device("cpu")).slices(LAYOUT) == LAYOUT.slices


@pytest.mark.parametrize("more", [(), ("aggregator.blocks=[recurrent,head]",)])
def test_a_run_of_a_language_model(tiny, run, more):
    """Two rounds of clients that predict the next character, each put together anew from their deltas."""
    epsilon = 1.2
    found = run(
        tiny("aggregator=fedatt", f"aggregator.server_optimizer.lr={epsilon}", *more, task=Task.SEQUENCE_LABELLING)
    )
    layout, blocks = found.simulation.task.arch.layout, found.simulation.blocks
    names = [name for name in layout.names if not more or not name.startswith("embedding")]
    before = found.rows[0].numpy()
    cohort = [layers(before + delta.numpy(), names, layout) for delta in found.deltas[1]]
    expected = algorithm_1(layers(before, names, layout), cohort, epsilon)
    for ours, theirs in zip(layers(found.rows[1].numpy(), names, layout), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert [*blocks.slices(layout)] == names


def test_what_is_refused(compose):
    with pytest.raises(FieldError, match="per"):
        FedAtt(per="layer")
    with pytest.raises(UserError, match=r"^privacy=secure_aggregation: .*aggregator/combine=fedatt"):
        compose("aggregator=fedatt", "privacy=secure_aggregation")


def test_a_cohort_of_one_is_refused(setting):
    with pytest.raises(UserError, match="fedatt: weighs the clients of a cohort against each other"):
        FedAtt().check(setting(1))
    FedAtt().check(setting(1, 2))
