"""JAX: a round as one jitted program, `lax.scan` over time, batches and epochs and `vmap` over the clients.

Not a simulator, but what somebody who knows JAX would write for this one experiment. Flax's cells are not PyTorch's, so
the layers are written out, with the product with the inputs before the scan. Tried with jax 0.10.2.
"""

from __future__ import annotations

import os
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bench.workloads import Spec, Turns, Workload, first_model, make_data


def step(cell: str, weights: jax.Array, bias: jax.Array, state: tuple, x: jax.Array) -> tuple:
    """One time step of PyTorch's GRU, LSTM or RNN; `x` is the input's share of the gates."""
    h = state[0]
    u = h @ weights.T + bias
    if cell == "rnn":
        h = jnp.tanh(x + u)
        return (h,), h
    if cell == "lstm":
        i, f, g, o = jnp.split(x + u, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h
    (x_r, x_z, x_n), (u_r, u_z, u_n) = jnp.split(x, 3, axis=-1), jnp.split(u, 3, axis=-1)
    z = jax.nn.sigmoid(x_z + u_z)
    h = (1 - z) * jnp.tanh(x_n + jax.nn.sigmoid(x_r + u_r) * u_n) + z * h
    return (h,), h


def loss_of(w: Workload, params: dict, batch: dict) -> jax.Array:
    """The mean loss of a batch."""
    x = batch["x"]
    if w.vocabulary:
        x = params["embedding.weight"][x]
    x = jnp.swapaxes(x, 0, 1)  # [T, b, D]
    for k in range(w.layers):
        gates = x @ params[f"recurrent.weight_ih_l{k}"].T + params[f"recurrent.bias_ih_l{k}"]
        weights, bias = params[f"recurrent.weight_hh_l{k}"], params[f"recurrent.bias_hh_l{k}"]
        start = (jnp.zeros((x.shape[1], w.hidden)),) * (2 if w.cell == "lstm" else 1)
        _, x = jax.lax.scan(lambda state, g, u=weights, b=bias: step(w.cell, u, b, state, g), start, gates)
    features = jnp.swapaxes(x, 0, 1) if w.task == "sequence_labelling" else x[-1]
    if w.projection:
        features = features @ params["projection.weight"].T + params["projection.bias"]
    outputs = features @ params["head.weight"].T + params["head.bias"]
    if w.task == "regression":
        return jnp.mean((outputs - batch["y"]) ** 2)
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][..., None], -1)
    return -jnp.mean(picked)


def mean_loss(w: Workload, params: dict, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The mean loss over every sample of every client after training, in double precision (see `bench.plain`)."""
    jax.config.update("jax_enable_x64", True)
    params = {name: jnp.asarray(value, jnp.float64) for name, value in params.items()}
    loss = jax.jit(partial(loss_of, w))
    return float(np.mean([loss(params, {"x": x, "y": y}) for x, y in zip(inputs, targets, strict=True)]))


def update(w: Workload, state: tuple, gradient: dict) -> tuple:
    """A step of SGD or Adam, as PyTorch's; the state is ``(params, first moments, second moments, step)``."""
    params, first, second, number = state
    number = number + 1
    if w.optimizer == "sgd":
        return jax.tree.map(lambda p, g: p - w.lr * g, params, gradient), first, second, number
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradient)
    rate, spread = w.lr / (1 - 0.9**number), jnp.sqrt(1 - 0.999**number)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / spread + 1e-8), params, first, second)
    return params, first, second, number


def train_client(w: Workload, params: dict, x: jax.Array, y: jax.Array, key: jax.Array) -> dict:
    """Train one client on its samples; return its model."""

    def local_step(state: tuple, batch: jax.Array) -> tuple:
        gradient = jax.grad(partial(loss_of, w))(state[0], {"x": x[batch], "y": y[batch]})
        return update(w, state, gradient), None

    def epoch(state: tuple, key: jax.Array) -> tuple:
        order = jax.random.permutation(key, w.samples)
        whole = w.samples - w.samples % w.batch_size
        state, _ = jax.lax.scan(local_step, state, order[:whole].reshape(-1, w.batch_size))
        if whole < w.samples:
            state, _ = local_step(state, order[whole:])
        return state, None

    zeros = jax.tree.map(jnp.zeros_like, params) if w.optimizer == "adam" else {}
    state, _ = jax.lax.scan(epoch, (params, zeros, zeros, 0), jax.random.split(key, w.epochs))
    return state[0]


def run_round(w: Workload, params: dict, x: jax.Array, y: jax.Array, key: jax.Array) -> dict:
    """Train a random cohort from the global model; return the weighted mean of its models."""
    draw, shuffle = jax.random.split(key)
    cohort = jax.random.permutation(draw, w.clients)[: w.cohort]
    keys = jax.random.split(shuffle, w.cohort)
    rows = jax.vmap(partial(train_client, w, params))(x[cohort], y[cohort], keys)
    sizes = jnp.full(w.cohort, float(w.samples))
    return jax.tree.map(lambda row: jnp.average(row, axis=0, weights=sizes), rows)


def main(spec: Spec) -> None:
    """Run the rounds that the benchmark asks for."""
    w, turns = spec.workload, Turns()
    if spec.threads is not None:
        os.environ["NPROC"] = str(spec.threads)  # XLA reads it when its first array is made
    inputs, targets = make_data(w)
    x, y = jnp.asarray(inputs), jnp.asarray(targets)
    params = {name: jnp.asarray(value) for name, value in first_model(w).items()}
    advance = jax.jit(partial(run_round, w))
    for round_number in turns.rounds(spec.rounds):
        params = jax.block_until_ready(advance(params, x, y, jax.random.key(round_number)))
    turns.finish(lambda: mean_loss(w, params, inputs, targets))


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
