"""A model as an ONNX graph of ONNX's own RNN, GRU and LSTM operators.

Source of the operators' equations and gate orders: the ONNX operator reference, ``RNN``, ``GRU`` and ``LSTM``
(https://onnx.ai/onnx/operators/). They take time first, so the graph transposes its input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedsim.data.dataset import Task
from fedsim.models.recurrent import Architecture

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSET = 17
"""Opset of ONNX 1.12 (2022): new enough for everything used here, old enough for the runtimes in use."""
IR_VERSION = 8
OUTPUT = "outputs"

_OPERATORS = {
    **{"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "cifg": "LSTM"},
    **{"gru": "GRU", "gru_reset_before": "GRU"},
}
# Which of our blocks of H rows goes where in ONNX: i f g o becomes i o f c, and r z n becomes z r h.
_ORDER = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}

Array: TypeAlias = "NDArray[np.float32]"


def build_graph(arch: Architecture, parameters: Mapping[str, Array]) -> Any:
    """Build the graph of a model, in float32.

    Its inputs are ``inputs`` (``[batch, time, D]`` float, or ``[batch, time]`` int64 tokens) and ``lengths``
    (``[batch]`` int64, 1..time); its output is ``outputs``, ``[batch, K]``, or ``[batch, time, K]`` for a target at
    every step, where steps beyond a sequence's length hold no prediction.

    Args:
        arch: the model's architecture.
        parameters: its parameters by the names of the layout.

    Returns:
        The ``onnx.ModelProto``, checked.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}

    def add(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0] or outputs[-1], **attributes))
        return outputs[0]

    every_step = arch.task is Task.SEQUENCE_LABELLING
    steps = add("Cast", ["lengths"], ["steps"], to=TensorProto.INT32)
    x = "inputs"
    if arch.vocabulary_size is not None:
        constants["embedding.weight"] = parameters["embedding.weight"]
        x = add("Gather", ["embedding.weight", x], ["embedded"])
    x = add("Transpose", [x], ["time_first"], perm=[1, 0, 2])
    constants["directions"] = np.array([1], dtype=np.int64)
    for layer in range(arch.model.num_layers):
        operator, arrays, attributes = _layer(arch, parameters, layer)
        names = {key: f"{operator.lower()}{layer}.{key}" for key in arrays}
        constants |= {names[key]: array for key, array in arrays.items()}
        last = layer + 1 == arch.model.num_layers and not every_step and arch.model.pooling == "last"
        states = ["", f"last{layer}"] if last else [f"states{layer}"]
        bias = names.get("B", "")
        add(operator, [x, names["W"], names["R"], bias, steps], states, hidden_size=arch.hidden_size, **attributes)
        # [time, 1, batch, H] of all states, or [1, batch, H] of the last; 2 instead of 1 in both directions
        x = states[-1]
        if "projection" in arrays:
            x = add("MatMul", [x, names["projection"]], [f"{x}.projected"])
        if arch.model.bidirectional:
            x = add("Transpose", [x], [f"{x}.beside"], perm=[1, 0, 2] if last else [0, 2, 1, 3])
            shape = "flat.last" if last else "flat"
            constants[shape] = np.array([0, -1] if last else [0, 0, -1], dtype=np.int64)  # 0: as it is
            x = add("Reshape", [x, shape], [f"{x}.joined"])
        else:
            constants["first"] = np.array([0], dtype=np.int64)
            x = add("Squeeze", [x, "first" if last else "directions"], [f"{x}.squeezed"])
    if arch.model.pooling != "last":
        x = _pool(arch.model.pooling, x, parameters, constants, add)
    if every_step:
        x = add("Transpose", [x], ["batch_first"], perm=[1, 0, 2])

    def dense(x: str, block: str, weight: Array, result: str) -> str:
        constants[f"{block}.weight"] = np.ascontiguousarray(weight.T)
        x = add("MatMul", [x, f"{block}.weight"], [f"{block}.product" if arch.model.bias else result])
        if arch.model.bias:
            constants[f"{block}.bias"] = parameters[f"{block}.bias"]
            x = add("Add", [x, f"{block}.bias"], [result])
        return x

    if arch.model.head_projection is not None:
        x = dense(x, "projection", parameters["projection.weight"], "projected")
        x = add("Tanh", [x], ["squashed"]) if arch.model.head_activation == "tanh" else x
    dense(x, "head", parameters[arch.head_weight], OUTPUT)

    tokens = arch.vocabulary_size is not None
    inputs = [
        helper.make_tensor_value_info(
            "inputs",
            TensorProto.INT64 if tokens else TensorProto.FLOAT,
            ["batch", "time"] if tokens else ["batch", "time", arch.input_size],
        ),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
    ]
    sizes: list[Any] = ["batch", "time", arch.num_outputs] if every_step else ["batch", arch.num_outputs]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, sizes)]
    used = {name for node in nodes for name in node.input}
    initial = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    graph = helper.make_graph(nodes, "fedsim", inputs, outputs, initial)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="fedsim")
    onnx.checker.check_model(model, full_check=True)
    return model


def _pool(
    pooling: str, x: str, parameters: Mapping[str, Array], constants: dict[str, NDArray[Any]], add: Callable[..., str]
) -> str:
    """Pool states ``[time, batch, S]`` over the valid steps; nodes go through `add`, numbers into `constants`."""
    constants |= {
        "zero": np.array(0, dtype=np.int64),
        "one": np.array(1, dtype=np.int64),
        "time": np.array([0], dtype=np.int64),
        "units": np.array([2], dtype=np.int64),
        "nothing": np.array(0 if pooling == "mean" else -np.inf, dtype=np.float32),
    }
    steps = add("Gather", [add("Shape", [x], ["shape"]), "zero"], ["number"])
    places = add("Range", ["zero", steps, "one"], ["range"])
    valid = add("Less", [add("Unsqueeze", [places, "directions"], ["column"]), "lengths"], ["inside"])
    valid = add("Unsqueeze", [valid, "units"], ["valid"])  # [time, batch, 1]
    if pooling == "attention":
        constants["pooling.weight"] = np.ascontiguousarray(parameters["pooling.weight"].T)
        scores = add("MatMul", [x, "pooling.weight"], ["scores"])
        scores = add("Where", [valid, scores, "nothing"], ["scores.valid"])
        weighted = add("Mul", [add("Softmax", [scores], ["shares"], axis=0), x], ["weighted"])
        return add("ReduceSum", [weighted, "time"], ["pooled"], keepdims=0)
    x = add("Where", [valid, x, "nothing"], ["states.valid"])
    if pooling == "max":
        return add("ReduceMax", [x], ["pooled"], axes=[0], keepdims=0)
    total = add("ReduceSum", [x, "time"], ["total"], keepdims=0)
    counts = add("Unsqueeze", [add("CastLike", ["lengths", total], ["counts"]), "directions"], ["counts.column"])
    return add("Div", [total, counts], ["pooled"])


def _layer(
    arch: Architecture, parameters: Mapping[str, Array], layer: int
) -> tuple[str, dict[str, Array], dict[str, Any]]:
    """An operator, its weights ``W [1, gH, D]``, ``R [1, gH, H]``, ``B [1, 2gH]`` if any, and its attributes.

    With a recurrent projection ``projection [1, H, P]`` follows the operator: ONNX has none within a layer, but
    ``U (W m)`` is ``(U W) m``, so its states can be m. In both directions all begin with 2 instead of 1.
    """
    parts = [_weights(arch, parameters, f"l{layer}{direction}") for direction in arch.directions]
    arrays = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    cell = arch.model.cell
    attributes: dict[str, Any] = {}
    if arch.model.bidirectional:
        attributes["direction"] = "bidirectional"
    if (operator := _OPERATORS[cell]) == "GRU":
        attributes["linear_before_reset"] = int(cell == "gru")
    if operator == "RNN":
        attributes["activations"] = ["Relu" if cell == "rnn_relu" else "Tanh"] * len(parts)
    return operator, arrays, attributes


def _weights(arch: Architecture, parameters: Mapping[str, Array], layer: str) -> dict[str, Array]:
    """The arrays of `_layer` for one direction, without their first axis."""
    cell = arch.model.cell

    def arranged(kind: str) -> Array:
        blocks = np.split(parameters[f"recurrent.{kind}_{layer}"], arch.model.gates)
        if cell == "gru_reset_before":
            # Ours is h' = (1 - z) h + z n, ONNX's is h' = (1 - z) n + z h: its z is 1 - z, and 1 - sigmoid(a) is
            # sigmoid(-a).
            blocks[1] = -blocks[1]
        if cell == "cifg":  # ours are f g o, and for the same reason the input gate 1 - f is that of negated weights
            blocks.insert(0, -blocks[0])
        return np.concatenate([blocks[place] for place in _ORDER[_OPERATORS[cell]]])

    arrays = {"W": arranged("weight_ih"), "R": arranged("weight_hh")}
    if arch.model.projection is not None:
        down = parameters[f"recurrent.weight_hr_{layer}"]
        arrays["R"] = arrays["R"] @ down
        arrays["projection"] = np.ascontiguousarray(down.T)
    if arch.model.bias:
        first = arranged("bias_ih")
        second = arranged("bias_hh") if arch.model.gate_biases == 2 else np.zeros_like(first)
        arrays["B"] = np.concatenate([first, second])
    return arrays
