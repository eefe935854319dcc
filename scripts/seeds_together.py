"""What a sweep over seeds could gain if its runs trained together, as more rows of one stack: an upper bound.

    python scripts/seeds_together.py                                  # four and eight seeds of the default run
    python scripts/seeds_together.py model.hidden_size=16 --seeds 8   # other settings: overrides as for fedsim run

The runs of S seeds play a round, one after another, on one thread. Then the same local training and evaluation is done
by one call for all of them, on the data of all, and everything else (choosing clients, combining, the server's step,
metrics, files) is taken to cost what it cost before. The two take turns, times are milliseconds of CPU per run and
round, medians of all repeats. That the rows trained together are those of separate runs is checked to the byte.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import median
from unittest.mock import patch

import torch

from fedsim.client_store import ClientStore
from fedsim.clients import stacked
from fedsim.clients.scores import EVALUATION_BATCH
from fedsim.config.compose import Request, check_request, normalise
from fedsim.core.state import State
from fedsim.data.batches import batch_indices, gather
from fedsim.data.population import Samples
from fedsim.federation.prepare import Simulation, initial_state, prepare
from fedsim.federation.round import play_round
from fedsim.models.stacked import score

ROUND = 3
"""The round whose batches are trained."""


def runs(seeds: int, overrides: Sequence[str]) -> list[tuple[Simulation, State]]:
    """Prepare a run per seed and play its first rounds."""
    words = [*overrides, "threads=1", "device=cpu", "console=none", f"seed=range(0,{seeds})"]
    found = []
    for job in check_request(normalise(Request((*words, "hydra.sweep.dir=outputs/seeds_together"), True))):
        simulation = prepare(job.experiment)
        state = initial_state(simulation)
        for _ in range(ROUND - 1):
            play_round(simulation, state)
        found.append((simulation, state))
    return found


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of several populations, one after another."""
    firsts = accumulate(map(len, parts), initial=0)
    ends = [part.offsets[1:] + first for part, first in zip(parts, firsts, strict=False)]
    return Samples(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([torch.tensor([0]), *ends]),
    )


def ways(found: Sequence[tuple[Simulation, State]]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    first = found[0][0]
    populations = [simulation.population for simulation, _ in found]
    number, seeds = first.population.num_clients, len(found)
    everybody = replace(
        first.population,
        train=joined([one.train for one in populations]),
        test=joined([one.test for one in populations]),
        client_names=tuple(name for one in populations for name in one.client_names),
    )
    trainer = first.bound.make_trainer(replace(first.task, population=everybody))
    assert isinstance(trainer, stacked.StackedTrainer)
    cohorts = [one.schedule.next_cohort(one, state, ROUND).clients for one, state in found]
    rows = [state.row.clone() for _, state in found]
    sizes = [len(cohort) for cohort in cohorts]
    clients = torch.cat([cohort + number * k for k, cohort in enumerate(cohorts)])
    anchors = torch.stack(rows).repeat_interleave(torch.tensor(sizes), 0)
    if len(set(first.task.steps(torch.arange(number)).tolist())) > 1:
        raise SystemExit("only for clients with equally many steps, such as partition=iid")

    def indices(
        samples: Samples, ranked: torch.Tensor, steps: torch.Tensor, batch_size: int | None, key: int
    ) -> Iterator[tuple[torch.Tensor, None]]:
        """The batches that each run draws from its own seed, one below another."""
        own = [
            batch_indices(one.population.train, cohort, one.task.steps(cohort), batch_size, one.task.batch_key(ROUND))
            for (one, _), cohort in zip(found, cohorts, strict=True)
        ]
        offsets = list(accumulate((len(one.train) for one in populations), initial=0))
        for parts in zip(*own, strict=True):
            yield torch.cat([index + offset for (index, _), offset in zip(parts, offsets, strict=False)]), None

    def train_apart() -> list[torch.Tensor]:
        return [
            one.trainer.train(row, cohort, ROUND, ClientStore(number))[0]
            for (one, _), row, cohort in zip(found, rows, cohorts, strict=True)
        ]

    def train_together() -> torch.Tensor:
        with patch.object(stacked, "batch_indices", indices):
            return trainer.train(anchors, clients, ROUND, ClientStore(number * seeds))[0]

    def evaluate_apart() -> list[object]:
        return [one.trainer.score_samples(row, one.population.test) for (one, _), row in zip(found, rows, strict=True)]

    def evaluate_together() -> object:
        size = len(populations[0].test)
        blocks = -(-size // EVALUATION_BATCH)
        index = torch.arange(blocks * EVALUATION_BATCH).view(blocks, EVALUATION_BATCH)
        real, index = (index < size).repeat(seeds, 1), index.clamp(max=size - 1)
        batch = gather(everybody.test, torch.cat([index + size * k for k in range(seeds)]), real)
        return score(trainer.task.arch, torch.stack(rows).repeat_interleave(blocks, 0), batch, trainer.kernels)

    def rounds() -> None:
        for simulation, state in found:
            play_round(simulation, state)

    same = torch.equal(torch.cat(train_apart()), train_together())
    print(f"trained together, {len(clients)} rows are {'' if same else 'NOT '}those of separate runs, to the byte")
    return {
        "rounds": rounds,
        "train apart": train_apart,
        "train together": train_together,
        "evaluate apart": evaluate_apart,
        "evaluate together": evaluate_together,
    }


def measure(seeds: int, overrides: Sequence[str], repeats: int) -> float:
    """Measure and print; return by how much faster a round could be at most."""
    calls = ways(runs(seeds, overrides))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            times[name].append((time.process_time() - begun) * 1000 / seeds)
    found = {name: median(values) for name, values in times.items()}
    saved = sum(found[f"{name} apart"] - found[f"{name} together"] for name in ("train", "evaluate"))
    bound = found["rounds"] / (found["rounds"] - saved)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    print(f"{seeds} seeds: {shown} ms; bound {bound:.2f}")
    return bound


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Measure each number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings of the runs, as for fedsim run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--repeats", type=int, default=41)
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)
    return [measure(seeds, ["rounds=100000", *options.overrides], options.repeats) for seeds in options.seeds]


if __name__ == "__main__":
    main()
