"""The values with which a model begins: ``model.initialisation``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STYLES = ("torch", "keras", "keras_he", "orthogonal")
FORGET_BIAS = 1.0
"""Gates that begin open remember (Jozefowicz et al. 2015, section 2.3)."""
_KERAS_EMBEDDING = 0.05
_TRUNCATED_DEVIATION = 0.87962566103423978
"""Of a standard normal number between -2 and 2: the root of ``1 - 4 phi(2) / (2 Phi(2) - 1)``."""

Floats: TypeAlias = "NDArray[np.float64]"


def draw(
    style: str, name: str, shape: tuple[int, ...], hidden: int, forget: int | None, rng: np.random.Generator
) -> Floats:
    """Draw one parameter of a recurrent model.

    - ``torch``: recurrent layers and head uniform in ``[-1/sqrt(H), 1/sqrt(H)]``, embedding standard normal, as
      ``torch.nn``; dense layers, the head among them, by the width of what they get. An embedding that is the head too
      stays standard normal, which makes large outputs: take another.
    - ``keras``: input weights, dense layer and head Glorot uniform, in ``[-l, l]`` with ``l = sqrt(6 / (in + out))``
      where ``out`` counts all gates; the recurrent matrix of all gates together with orthonormal columns; biases 0,
      that of a forget gate 1; embedding uniform in ``[-0.05, 0.05]``. As the layers of Keras 3 do by default (Glorot
      and Bengio 2010; Saxe et al. 2014), where an LSTM has one bias per gate: here it is that of the inputs, and the
      other, if there is one, is 0.
    - ``keras_he``: as ``keras``, but the input weights of recurrent layers are normal with variance ``2 / in``, cut off
      at two standard deviations before scaling (He et al. 2015), as in the Shakespeare model of TensorFlow Federated.
      With a narrow embedding they are much larger: Glorot's rule counts all gates as outputs.
    - ``orthogonal``: as ``torch``, but the recurrent matrix of each gate is orthogonal (has orthonormal columns, where
      the state is projected), and the bias of a forget gate is 1 (Le et al. 2015 discuss why).

    The weights of a recurrent projection are drawn as ``torch`` draws all others of the layer, and by Glorot's rule in
    the ways of Keras, which has no such layer.

    Args:
        style: one of `STYLES`.
        name: the parameter's name in the layout.
        shape: its shape; gates are blocks of `hidden` rows.
        hidden: H; for dense layers, the head among them, how many numbers they get.
        forget: the place of the forget gate among the gates, or None.
        rng: the stream of this parameter.
    """
    keras = style.startswith("keras")
    if name.startswith("recurrent.weight_hh") and style != "torch":
        blocks = [shape] if keras else [(hidden, shape[1])] * (shape[0] // hidden)
        return np.concatenate([_orthonormal(block, rng) for block in blocks])
    if keras:
        if name == "embedding.weight":
            return rng.uniform(-_KERAS_EMBEDDING, _KERAS_EMBEDDING, shape)
        if "bias" in name:
            return _forgetting(np.zeros(shape), name, hidden, forget)
        if style == "keras_he" and name.startswith("recurrent.weight_ih"):
            return _truncated_normal(shape, rng) * float(np.sqrt(2 / shape[1]))
        limit = float(np.sqrt(6 / sum(shape)))
        return rng.uniform(-limit, limit, shape)
    if name == "embedding.weight":
        return rng.standard_normal(shape)
    bound = hidden**-0.5
    values = rng.uniform(-bound, bound, shape)
    return values if style == "torch" else _forgetting(values, name, hidden, forget)


def _forgetting(bias: Floats, name: str, hidden: int, forget: int | None) -> Floats:
    """Give the forget gate a bias of 1 in all: that of the inputs 1, that of the states 0."""
    if forget is not None and name.startswith("recurrent.bias_"):
        bias[forget * hidden : (forget + 1) * hidden] = FORGET_BIAS if "bias_ih" in name else 0.0
    return bias


def _truncated_normal(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Normal numbers between -2 and 2, scaled to variance 1."""
    values = rng.standard_normal(shape)
    while (far := np.abs(values) > 2).any():
        values[far] = rng.standard_normal(int(far.sum()))
    return values / _TRUNCATED_DEVIATION


def _orthonormal(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """A matrix with at least as many rows as columns, whose columns are orthonormal, uniform among all of them."""
    q, r = np.linalg.qr(rng.standard_normal(shape))
    columns: Floats = q * np.sign(np.diag(r))  # or the distribution would depend on how the factors are computed
    return columns
