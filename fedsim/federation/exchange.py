"""Between the clients and the server: what they send each other on the way from training to the combine rule.

Deltas go through three steps, each on ``[c, n]`` rows of a chunk, n being the parameters that are aggregated:
privatise (on the client), attack (malicious clients), encode and decode (the link). A step that is off costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.aggregation.rules import BLOCK, Combine, concatenate_reports
from fedsim.aggregation.weighted import Weighted
from fedsim.attacks.attack import CohortAttack, NoAttack, RowAttack
from fedsim.clients.report import Memory, Report
from fedsim.federation.cohort import Chunk
from fedsim.federation.state import Metrics, Simulation, State
from fedsim.links.link import transmit
from fedsim.parallel.share import Share
from fedsim.privacy.privacy import CentralPrivacy, LocalPrivacy
from fedsim.privacy.secure import SecureAggregation, SecureMean


def exchanged(
    sim: Simulation, state: State, chunks: Iterable[Chunk], number: int, change: Tensor, share: Share
) -> Iterator[tuple[Tensor, Report]]:
    """What arrives at the server of the chunks of a `share`: ``(deltas [c, P], report)``, in cohort order.

    What the correction remembers of the clients changes by `change` ``[P]`` in all, as far as the server knows: it
    finds that out from the deltas that arrive, unless clients tell it in rows of their own (SCAFFOLD).
    """
    e, store = sim.experiment, state.store
    attacking = sim.malicious is not None and number >= e.attack.start_round
    private_key = seeding.stream_key(e.seed, "local noise", number)
    attack_key = seeding.stream_key(e.seed, "attack", number)
    link_key = seeding.stream_key(e.seed, "link.up", number)
    if attacking and isinstance(e.attack, CohortAttack):
        with share.together():
            held = list(chunks)
        chunks = [_whole(held)] if held else []
        if not held:
            share.whole({})  # to the rows that `_attacked` gathers, this process has none to add
    for clients, deltas, report, memory in chunks:
        rows = deltas if sim.shared is None else deltas[:, sim.shared]
        if isinstance(e.privacy, LocalPrivacy):
            assert sim.budget is not None
            rows = e.privacy.privatise(rows, clients, private_key, sim.budget)
            count_participations(state, clients)
        if attacking:
            rows = _attacked(sim, rows, clients, attack_key, share)
        if not e.link.lossless_up:
            rows = transmit(e.link.up, rows, clients, link_key, store)
        arrived = rows
        if sim.shared is not None:
            arrived = torch.zeros_like(deltas)
            arrived[:, sim.shared] = rows
        if memory is not None:
            known = deltas if e.aggregator.correction.extra_up else arrived
            _remember(sim, memory, known, report, number, change)
        yield arrived, report


def _whole(chunks: list[Chunk]) -> Chunk:
    """The chunks of a cohort as one."""
    memories = [chunk.memory for chunk in chunks if chunk.memory is not None]
    memory = Memory(torch.cat([m.own for m in memories]), memories[0].mean) if memories else None
    return Chunk(
        torch.cat([chunk.clients for chunk in chunks]),
        torch.cat([chunk.deltas for chunk in chunks]),
        concatenate_reports([chunk.report for chunk in chunks]),
        memory,
    )


def _attacked(sim: Simulation, rows: Tensor, clients: Tensor, key: int, share: Share) -> Tensor:
    """The rows ``[c, n]``, those of malicious clients as the attack makes them."""
    assert sim.malicious is not None
    attack, bad = sim.experiment.attack, sim.malicious[clients]
    if isinstance(attack, CohortAttack):
        seen = share.whole({"rows": rows, "bad": bad})
        count = int(seen["bad"].sum())
        if bool(bad.any()):
            benign = seen["rows"] if count == len(seen["rows"]) else seen["rows"][~seen["bad"]]
            rows = rows.clone()
            rows[bad] = attack.forge(benign, count).to(rows.dtype)
    elif isinstance(attack, RowAttack) and bool(bad.any()):
        rows = rows.clone()
        rows[bad] = attack.alter(rows[bad], clients[bad], key)
    return rows


def _remember(sim: Simulation, memory: Memory, deltas: Tensor, report: Report, number: int, change: Tensor) -> None:
    """Add to `change` by how much the correction's memories of a chunk's clients change."""
    own = sim.experiment.aggregator.correction.remember(memory, deltas, report.local_steps, sim.task.lr(number))
    for new, old in zip(own.split(BLOCK), memory.own.split(BLOCK), strict=True):
        change += (new.double() - old.double()).sum(0)


def count_participations(state: State, clients: Tensor) -> None:
    """Clients count the rounds in which they spend privacy."""
    before = state.store.read("privacy.rounds", clients, state.row.new_zeros((len(clients), 1), dtype=torch.float64))
    state.store.write("privacy.rounds", clients, before + 1)


def combine_rule(
    sim: Simulation, state: State, number: int, asked: Tensor, arriving: Tensor, own: Tensor
) -> Combine | None:
    """The rule of a round: the aggregator's, or the private mean in its place.

    Args:
        sim: the run.
        state: of the run.
        number: of the round.
        asked: ``[A]`` the clients that began the round.
        arriving: ``[C]`` those of them whose deltas will arrive.
        own: ``[c]`` those of these whose deltas this process hands on, in that order.

    Returns:
        None if they are too few for secure aggregation: the round is aborted.
    """
    e = sim.experiment
    if isinstance(e.privacy, SecureAggregation):
        masking = e.privacy.masking(asked, e.seed, number)
        if not masking.recoverable(torch.isin(asked, arriving), e.privacy.threshold):
            state.parts["privacy.aborted"] = torch.tensor(1)
            return None
        numbers = e.privacy.numbers(e, sim.population.train.sizes)
        weighted = e.aggregator.combine if isinstance(e.aggregator.combine, Weighted) else None
        places = {client: place for place, client in enumerate(asked.tolist())}
        all_places, own_places = (torch.tensor([places[c] for c in each.tolist()]) for each in (arriving, own))
        return SecureMean(masking, all_places, own_places, numbers, weighted, sim.shared, state.parts)
    if not isinstance(e.privacy, CentralPrivacy):
        return e.aggregator.combine
    assert sim.budget is not None
    return e.privacy.rule(state.parts, sim.budget, e.seed, number)


def broadcast(sim: Simulation, state: State, number: int) -> None:
    """Before a round: the server encodes by how much the global model changed, and the copy of all clients follows.

    With error feedback it encodes by how much the model differs from the copy, which has in it all that was lost.
    Clients know nothing before the first round, so that the first copy is the model itself.
    """
    link, parts = sim.experiment.link, state.parts
    if link.lossless_down:
        return
    if "link.copy" not in parts:
        parts["link.copy"] = state.row.clone()
    else:
        copy = parts["link.copy"].clone()
        change = state.row - (copy if link.down.error_feedback else parts["link.before"])
        shared = slice(None) if sim.shared is None else sim.shared
        nobody, key = torch.zeros(1, dtype=torch.int64), seeding.stream_key(sim.experiment.seed, "link.down", number)
        copy[shared] += link.down.decoded(change[None, shared], nobody, key)[0]
        parts["link.copy"] = copy
    if not link.down.error_feedback:
        parts["link.before"] = state.row.clone()


def bytes_per_client(sim: Simulation, asked: int) -> tuple[int, int]:
    """Bytes that one of `asked` clients receives in its first round and sends in any.

    A model or delta, a correction's rows, and the keys and shares of secure aggregation.
    """
    e = sim.experiment
    itemsize, correction = e.torch_dtype().itemsize, e.aggregator.correction
    count = sim.task.arch.layout.num_parameters if sim.shared is None else len(sim.shared)
    row = count * itemsize
    if isinstance(e.privacy, SecureAggregation):
        more = e.privacy.traffic(asked)
        return row + more.down, more.before + e.privacy.row_bytes(count, e.aggregator.combine) + more.after
    return row * (1 + correction.extra_down), e.link.up.size(count, itemsize) + row * correction.extra_up


def bytes_before_row(sim: Simulation, asked: int) -> int:
    """Bytes that one of `asked` clients has sent before it sends its row: keys and shares of secure aggregation."""
    privacy = sim.experiment.privacy
    return privacy.traffic(asked).before if isinstance(privacy, SecureAggregation) else 0


def download_sizes(sim: Simulation, state: State, clients: Tensor, number: int) -> Tensor:
    """Bytes ``[k]`` int64 that each of the clients ``[k]`` who begin round `number` receives."""
    whole = torch.full((len(clients),), bytes_per_client(sim, len(clients))[0], dtype=torch.int64)
    link = sim.experiment.link
    if link.lossless_down or len(clients) == 0:
        return whole
    count, itemsize = sim.task.arch.layout.num_parameters, sim.experiment.torch_dtype().itemsize
    count = count if sim.shared is None else len(sim.shared)
    never = state.row.new_zeros((len(clients), 1), dtype=torch.float64)
    seen = state.store.read("link.seen", clients, never)[:, 0].cpu()
    messages = (number - seen) * link.down.size(count, itemsize)
    saved = (count * itemsize - messages).clamp(min=0) * (seen > 0)  # in the place of the whole copy
    return whole - saved.long()


def count_bytes(sim: Simulation, state: State, informed: Tensor, senders: int, number: int) -> None:
    """Add to the books of `state` what a round sent to the clients `informed` ``[k]`` and what `senders` sent."""
    state.bytes_up += senders * bytes_per_client(sim, len(informed))[1]
    state.bytes_up += (len(informed) - senders) * bytes_before_row(sim, len(informed))
    state.bytes_down += int(download_sizes(sim, state, informed, number).sum())
    if not sim.experiment.link.lossless_down and len(informed) > 0:
        now = state.row.new_full((len(informed), 1), number, dtype=torch.float64)
        state.store.write("link.seen", informed, now)


def exchange_metrics(sim: Simulation, state: State, cohort: Tensor) -> Metrics:
    """What attacks and privacy add to the row of a round that is done."""
    e, metrics = sim.experiment, Metrics()
    if not isinstance(e.attack, NoAttack):
        attacking = sim.malicious is not None and state.round >= e.attack.start_round
        metrics["malicious"] = int(sim.malicious[cohort].sum()) if attacking and sim.malicious is not None else 0
    if sim.budget is not None:
        spent = state.round
        if isinstance(e.privacy, LocalPrivacy):
            everybody = torch.arange(sim.population.num_clients)
            none = state.row.new_zeros((len(everybody), 1), dtype=torch.float64)
            spent = int(state.store.read("privacy.rounds", everybody, none).max())
        metrics |= {"epsilon": sim.budget.epsilon(spent), "delta": sim.budget.delta}
        if "privacy.clip_norm" in state.parts:
            metrics["clip_norm"] = float(state.parts["privacy.clip_norm"])
    if isinstance(e.privacy, SecureAggregation):  # what the round left is not kept
        metrics["clipped_values"] = int(state.parts.pop("privacy.clipped", torch.tensor(0)))
        metrics["aborted"] = int(state.parts.pop("privacy.aborted", torch.tensor(0)))
    return metrics
