"""FedJAX (Google): its `federated_averaging` with the default backend, which jits a step and loops over clients.

FedJAX's users write their model in JAX. Haiku's GRU is not PyTorch's, so the layers are written out here, with
`jax.lax.scan` over time after the product with the inputs. Tried with fedjax 0.0.17, which needs an older jax:
jax==0.4.30 jaxlib==0.4.30 "numpy<2" "dm-haiku<0.0.14" "optax<0.2.4".
"""

from __future__ import annotations

import sys

import fedjax
import jax
import jax.numpy as jnp

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
    outputs = features @ params["head.weight"].T + params["head.bias"]
    if w.task == "regression":
        return jnp.mean((outputs - batch["y"]) ** 2)
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][..., None], -1)
    return -jnp.mean(picked)


def main(spec: Spec) -> None:
    """Run the rounds that the benchmark asks for."""
    w, turns = spec.workload, Turns()
    inputs, targets = make_data(w)
    data = fedjax.InMemoryFederatedData({k: {"x": inputs[k], "y": targets[k]} for k in range(w.clients)})
    gradient = jax.jit(jax.grad(lambda params, batch, rng: loss_of(w, params, batch)))
    optimizer = {"sgd": fedjax.optimizers.sgd, "adam": fedjax.optimizers.adam}[w.optimizer](w.lr)
    batches = fedjax.ShuffleRepeatBatchHParams(batch_size=w.batch_size, num_epochs=w.epochs, seed=0)
    server = fedjax.optimizers.sgd(1.0)
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(gradient, optimizer, server, batches)
    sampler = fedjax.client_samplers.UniformGetClientSampler(data, w.cohort, seed=0)
    state = algorithm.init({name: jnp.asarray(value) for name, value in first_model(w).items()})
    for _ in turns.rounds(spec.rounds):
        state, _ = algorithm.apply(state, sampler.sample())
        jax.block_until_ready(state.params)
    loss = jax.jit(lambda params, x, y: loss_of(w, params, {"x": x, "y": y}))
    turns.finish(lambda: sum(float(loss(state.params, inputs[k], targets[k])) for k in range(w.clients)) / w.clients)


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
