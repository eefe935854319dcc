"""What is kept out of training, so that something is left to choose by and to report on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.dataset import Assignment, Dataset
from fedsim.errors import UserError, did_you_mean
from fedsim.partition.partition import Partition
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

Members: TypeAlias = "list[NDArray[np.int64]]"


@dataclass(frozen=True)
class HeldOut:
    """A partition of which some clients never train, and each client holds some of its training samples back.

    The samples held back of samples that follow one another in time are the last of each stretch of time, and training
    samples that share steps with any of them are left out; of other samples they are drawn.

    Attributes:
        partition: who holds which sample, before.
        validation_fraction: share of each client's training samples that is held back.
        unseen: how many clients never train, which share of them, or their names.
        evaluated: how many of the other clients keep their test and validation samples; None: all.
    """

    partition: Partition
    validation_fraction: float = 0.0
    unseen: int | float | Sequence[str] | None = None
    evaluated: int | None = None

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Give the samples to clients, of whom the unseen ones are an assignment of their own.

        Raises:
            UserError: if nothing would be left to train on, or nothing held back.
        """
        whole = self.partition.assign(dataset, num_clients, seed)
        if (observe := whole.observe) is not None:  # a sample looks as it did to the client that the partition gave it
            given = whole.train, whole.test
            whole = replace(whole, observe=lambda split, _, number: observe(split, given[number], number))
        notes: list[str] = []
        if self.unseen is not None:
            whole = self._set_apart(whole, seed, notes)
        if self.validation_fraction > 0:
            whole = self._hold_back(dataset, whole, seed, notes)
        if self.evaluated is not None:
            whole = self._sample(whole, self.evaluated, seed, notes)
        return replace(whole, notes=(*whole.notes, *notes))

    def _set_apart(self, whole: Assignment, seed: int, notes: list[str]) -> Assignment:
        apart = unseen_clients(whole.client_names, self.unseen, seed)
        rest = np.setdiff1d(np.arange(len(whole.client_names)), apart)
        unseen, seen = _of(whole, apart), _of(whole, rest)
        if not any(len(own) for own in unseen.test):
            raise UserError(f"eval.unseen_clients={_said(self.unseen)}: these clients have no test samples")
        names = ", ".join(unseen.client_names[:5]) + (", ..." if len(apart) > 5 else "")
        notes.append(
            f"{len(apart):,} of {len(whole.client_names):,} clients never train, and unseen_* columns are about them "
            f"(eval.unseen_clients={_said(self.unseen)}): {names}"
        )
        return replace(seen, unseen=replace(unseen, notes=()))

    def _hold_back(self, dataset: Dataset, whole: Assignment, seed: int, notes: list[str]) -> Assignment:
        fraction = self.validation_fraction
        train, held, left_out = hold_back(dataset, list(whole.train), fraction, seed)
        number, before = sum(map(len, held)), sum(map(len, whole.train))
        if number == 0:
            largest = max(map(len, whole.train))
            raise UserError(
                f"eval.validation_fraction={fraction:g}: holds no sample back, as no client has more than {largest} "
                "training samples; raise it, or take fewer clients"
            )
        for name, own in zip(whole.client_names, train, strict=True):
            if len(own) == 0:
                raise UserError(
                    f"eval.validation_fraction={fraction:g}: client {name!r} would have no training samples left; take "
                    "a smaller fraction, fewer clients, or partition.min_samples"
                )
        how = "drawn at random" if not dataset.has_order else "the last in time"
        if dataset.held_anywhere:
            how = "a stretch of time of each client"
        notes.append(
            f"{number:,} of {before:,} training samples are held back, {how}, and validation_* columns are about them "
            f"(eval.validation_fraction={fraction:g})"
        )
        if left_out:
            notes.append(f"{left_out:,} training samples share time steps with those held back, and are left out")
        return replace(whole, train=train, validation=held)

    def _sample(self, whole: Assignment, size: int, seed: int, notes: list[str]) -> Assignment:
        tested = np.flatnonzero([len(own) > 0 for own in whole.test])
        if size >= len(tested):
            raise UserError(
                f"eval.clients={size}: has no effect, as {len(tested)} clients have test samples; take fewer, or null"
            )
        chosen = set(generator(seed, "eval.clients").permutation(tested)[:size].tolist())
        notes.append(
            f"{size:,} of {len(tested):,} clients with test samples are evaluated, drawn once (eval.clients={size})"
        )

        def kept(members: Sequence[NDArray[np.int64]]) -> Members:
            return [own if k in chosen else own[:0] for k, own in enumerate(members)]

        validation = None if whole.validation is None else kept(whole.validation)
        return replace(whole, test=kept(whole.test), validation=validation, sampled_from=len(tested))


def unseen_clients(names: Sequence[str], wanted: int | float | Sequence[str] | None, seed: int) -> NDArray[np.int64]:
    """The numbers of the clients that are kept out of training, ascending.

    Args:
        names: of all clients.
        wanted: how many, which share of them (at least one client), or their names.
        seed: for the stream ``eval.unseen``.

    Raises:
        UserError: if a name is not that of one client, or no client is left to train.
    """
    said = f"eval.unseen_clients={_said(wanted)}"
    if isinstance(wanted, int | float):
        count = wanted if isinstance(wanted, int) else max(1, round(wanted * len(names)))
        if count >= len(names):
            raise UserError(f"{said}: leaves none of the {len(names)} clients to train")
        return np.sort(generator(seed, "eval.unseen").permutation(len(names))[:count])
    places = []
    for name in wanted or ():
        if name not in names:
            few = f"; known: {', '.join(names)}" if len(names) <= 20 else ""
            raise UserError(f"{said}: there is no client {name!r}{did_you_mean(name, names)}{few}")
        places.append(names.index(name))
    if len(places) == len(names):
        raise UserError(f"{said}: leaves none of the {len(names)} clients to train")
    return np.array(sorted(places), np.int64)


def hold_back(dataset: Dataset, members: Members, fraction: float, seed: int) -> tuple[Members, Members, int]:
    """Take each client's validation samples out of its training samples, and what shares time steps with them.

    Args:
        dataset: the data.
        members: the training samples of each client.
        fraction: share of them to hold back, rounded; a client keeps at least one to train on.
        seed: for the stream ``eval.validation``.

    Returns:
        each client's samples for training and for validation, and how many were left out.
    """
    series, place = _places(dataset)
    train, held = [], []
    for client, own in enumerate(members):
        own = np.sort(own)
        stretches = [own] if series is None else np.split(own, np.flatnonzero(np.diff(series[own])) + 1)
        chosen = []
        for number, stretch in enumerate(stretches):
            count = min(round(fraction * len(stretch)), len(stretch) - 1)
            first = len(stretch) - count
            if series is None:
                stretch = generator(seed, "eval.validation", client).permutation(stretch)
            elif dataset.held_anywhere:
                first = int(generator(seed, "eval.validation", client, number).integers(first + 1))
            chosen.append(stretch[first : first + count])
        held.append(np.sort(np.concatenate(chosen)) if chosen else own[:0])
        train.append(np.setdiff1d(own, held[-1], assume_unique=True))
    if series is None or not dataset.overlap:
        return train, held, 0
    near = _near(series, place, np.concatenate(held), dataset.overlap)
    apart = [own[~near[own]] for own in train]
    return apart, held, sum(map(len, train)) - sum(map(len, apart))


def _places(dataset: Dataset) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """The series that each training sample is of, None for samples without an order; and its place in that series."""
    size = len(dataset.train)
    series = dataset.stretches
    if series is None and dataset.ordered:
        series = np.zeros(size, np.int64) if dataset.train.clients is None else dataset.train.clients
    if series is None:
        return None, np.zeros(0, np.int64)
    order = np.argsort(series, kind="stable")
    starts = np.flatnonzero(np.diff(series[order], prepend=-1))
    place = np.empty(size, np.int64)
    place[order] = np.arange(size) - np.repeat(starts, np.diff(np.append(starts, size)))
    return series, place


def _near(
    series: NDArray[np.int64], place: NDArray[np.int64], held: NDArray[np.int64], overlap: int
) -> NDArray[np.bool_]:
    """``[S]``, which samples are at most `overlap` places from one of `held` in its series."""
    # With more than `overlap` free places between two series, places of different series are never near.
    width = int(place.max(initial=0)) + 1 + overlap
    at = series * width + place
    taken = np.sort(at[held])
    right = np.searchsorted(taken, at - overlap)
    near: NDArray[np.bool_] = np.append(taken, np.iinfo(np.int64).max)[right] <= at + overlap
    return near


def _of(whole: Assignment, clients: NDArray[np.int64]) -> Assignment:
    """The assignment of some of the clients."""
    return replace(
        whole,
        train=[whole.train[k] for k in clients],
        test=[whole.test[k] for k in clients],
        client_names=tuple(whole.client_names[k] for k in clients),
    )


def _said(wanted: object) -> str:
    return f"[{','.join(map(str, wanted))}]" if isinstance(wanted, list) else str(wanted)
