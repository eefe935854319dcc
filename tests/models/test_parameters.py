"""Rows and their named parts."""

import pytest
import torch

from fedsim.models.parameters import ParameterLayout

LAYOUT = ParameterLayout.of([("embedding.weight", (2, 3)), ("head.weight", (1, 2)), ("head.bias", (1,))])


def test_layout_of_a_row():
    assert LAYOUT.num_parameters == 9
    assert LAYOUT.slices == {"embedding.weight": slice(0, 6), "head.weight": slice(6, 8), "head.bias": slice(8, 9)}
    assert LAYOUT.blocks == ("embedding", "head")


def test_views_share_memory():
    rows = torch.arange(18.0).view(2, 9)
    views = LAYOUT.views(rows)
    assert views["embedding.weight"].tolist() == [[[0, 1, 2], [3, 4, 5]], [[9, 10, 11], [12, 13, 14]]]
    assert views["head.weight"].shape == (2, 1, 2)
    views["head.bias"][1] = -1
    assert rows[1, 8] == -1
    assert LAYOUT.views(rows[0])["embedding.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_views_of_an_expanded_row():
    """A global row given to every client is one row in memory."""
    row = torch.arange(9.0)
    assert LAYOUT.views(row.expand(3, -1))["head.weight"].tolist() == [[[6, 7]]] * 3


def test_flatten_undoes_views():
    row = torch.randn(9, generator=torch.Generator().manual_seed(0))
    views = LAYOUT.views(row)
    assert torch.equal(LAYOUT.flatten(dict(reversed(views.items()))), row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.bias": None}, r"missing \['head.bias'\]"),
        ({"tail": torch.zeros(1)}, r"unknown \['tail'\]"),
        ({"head.weight": torch.zeros(2, 1)}, r"head.weight has shape \(2, 1\), expected \(1, 2\)"),
    ],
)
def test_flatten_refuses_what_does_not_fit(change, message):
    parameters = {**LAYOUT.views(torch.zeros(9)), **change}
    with pytest.raises(ValueError, match=message):
        LAYOUT.flatten({name: value for name, value in parameters.items() if value is not None})
