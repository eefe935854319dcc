"""Sequences of a table as samples, one each: which train and which test, on what scale, and padded to one length."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim import seeding
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.fitted import Fitted
from fedsim.data.table_frame import shorten
from fedsim.data.tables import Table
from fedsim.data.window_scales import GivenScales, pooled, record, scaled
from fedsim.data.windows import number_labels
from fedsim.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ints: TypeAlias = "NDArray[np.int64]"
Flags: TypeAlias = "NDArray[np.bool_]"


@dataclass(frozen=True)
class Sequences:
    """How samples are made; see `fedsim.data.csv.Csv` for the fields."""

    path: str | None
    targets: tuple[str, ...]
    task: str
    window: int
    test_fraction: float
    scale: str
    scales: GivenScales = ()

    def dataset(self, table: Table, fitted: Fitted | None = None) -> Dataset:
        """Make a training or a test sample of each sequence.

        Args:
            table: the rows.
            fitted: labels and scaling of other data, by which these are to be prepared; None fits them.

        Raises:
            UserError: if there are none, or too many for the memory.
        """
        notes = list(table.notes)
        ends = np.cumsum(table.sizes)
        usable = table.sizes > 0
        if len(table.absent):
            usable &= ~table.absent[np.maximum(ends - 1, 0)]
        if gone := [table.clients[k] for k in np.flatnonzero(~usable)]:
            notes.append(f"left out {len(gone):,} of {len(usable):,} sequences without rows or target: {shorten(gone)}")
        names = [*dict.fromkeys(table.owners[k] for k in np.flatnonzero(usable))]
        number = {name: k for k, name in enumerate(names)}
        owner = np.array([number.get(name, -1) for name in table.owners], np.int64)
        order = np.argsort(owner, kind="stable")
        order = order[usable[order]]  # the sequences of a client together
        owner, ends, sizes = owner[order], ends[order], table.sizes[order]
        lengths = np.minimum(sizes, self.window)
        if cut := int((sizes > self.window).sum()):
            notes.append(
                f"{cut:,} of {len(sizes):,} sequences have more than {self.window} rows (the longest {sizes.max():,}): "
                f"the last {self.window} are taken (data.window)"
            )
        testing = self._testing(table, owner, ends, names, notes)
        self._check_memory(table, lengths)
        of = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(len(of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = table.values[(ends - lengths)[of] + step]
        values, scales = scaled(rows, owner[of], ~testing[of], table, names, self.scale, self.scales, fitted, notes)
        last = np.cumsum(lengths) - 1  # each sequence's last row among those taken
        inputs = np.zeros((len(lengths), int(lengths.max()), table.num_features), np.float32)
        inputs[of, step] = values[:, : table.num_features]
        targets: NDArray[np.generic]
        if self.task == "classification":
            targets = table.labels[ends - 1]
        else:
            targets = values[last][:, [table.columns.index(name) for name in self.targets]]
        clients = owner if table.natural else None
        splits = [
            Split(inputs[part], lengths[part], targets[part], None if clients is None else clients[part])
            for part in (~testing, testing)
        ]
        labels: tuple[str, ...] = ()
        if self.task == "classification":
            known = fitted.labels if fitted else ()
            splits, labels = number_labels(splits, table.label_names, notes, known, "sequence")
        every = np.arange(len(names))
        return Dataset(
            name="csv",
            task=Task.CLASSIFICATION if labels else Task.REGRESSION,
            train=splits[0],
            test=splits[1],
            num_outputs=len(labels) or splits[0].targets.shape[1],
            client_names=tuple(names) if table.natural else None,
            fitted=record(table, names, scales, every, () if labels else self.targets, labels),
            why_not_natural="nothing says whose sequences are whose: set data.client_column",
            notes=tuple(notes),
            facts=table.facts,
            pooled=pooled(table, scales, self.scale, fitted is not None, labels),
        )

    def _testing(self, table: Table, owner: Ints, ends: Ints, names: list[str], notes: list[str]) -> Flags:
        """Draw the sequences to test on, in each client its share of each label; the same draw for every seed."""
        labels = table.labels[ends - 1] if self.task == "classification" else np.zeros(len(ends), np.int64)
        testing = np.zeros(len(owner), bool)
        starts = np.append(np.flatnonzero(np.diff(owner, prepend=-1)), len(owner))
        for client, (start, stop) in enumerate(pairwise(starts)):
            if stop - start < 2:
                continue
            draw = seeding.generator(0, "test sequences", client)
            order = np.lexsort((draw.permutation(stop - start), labels[start:stop]))
            count = np.floor(draw.random() + self.test_fraction * np.arange(stop - start + 1))
            taken = np.diff(count) > 0  # in the order of labels, evenly spread from a random place on
            if taken.all():
                taken[0] = False
            testing[start + order[taken]] = True
        if not testing.any():
            raise UserError(
                f"data.test_fraction={self.test_fraction:g}: no client has enough sequences to test on; take more"
            )
        if untested := [names[k] for k in np.setdiff1d(owner, owner[testing])]:
            notes.append(
                f"{len(untested):,} of {len(names):,} clients have too few sequences to test on (data.test_fraction="
                f"{self.test_fraction:g}), and train on all of them: {shorten(untested)}"
            )
        return testing

    def _check_memory(self, table: Table, lengths: Ints) -> None:
        """Refuse padded sequences that do not fit in memory, which holds them twice while they are divided."""
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
        needed = 4 * len(lengths) * int(lengths.max()) * table.num_features
        if 2 * needed > there:
            raise UserError(
                f"data.window={self.window}: {len(lengths):,} sequences of up to {lengths.max():,} rows take "
                f"{needed / 2**30:,.1f} GiB, and twice that while they are loaded; this machine has "
                f"{there / 2**30:,.1f} GiB; take a smaller window"
            )
