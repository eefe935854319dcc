"""FedJAX (Google): its `federated_averaging` with the default backend, which jits a step and loops over clients.

FedJAX's users write their model in JAX; this is that of `jax.py`, because Haiku's GRU is not PyTorch's. Tried with
fedjax 0.0.17, which needs an older jax:
jax==0.4.30 jaxlib==0.4.30 "numpy<2" "dm-haiku<0.0.14" "optax<0.2.4".
"""

from __future__ import annotations

import sys

import fedjax
import jax
import jax.numpy as jnp

from bench.workloads import Spec, Turns, first_model, make_data
from peers.jax import loss_of, mean_loss


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
    turns.finish(lambda: mean_loss(w, state.params, inputs, targets))


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
