"""``fedsim partition``: who would hold which samples, before anything is trained.

`describe` makes the numbers, `render` and `fedsim.cli.partition_plot` show them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import IGNORE, Assignment, Dataset, Split, Task
from fedsim.data.population import observed, refuse_empty
from fedsim.errors import printable
from fedsim.partition.common import quantile_bins, target_scores

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from rich.console import RenderableType

QUANTILES = 10
"""Bins of a regression's targets."""
TOKENS = 30
"""Tokens whose shares are shown, the most frequent ones."""

_FEW_CLIENTS, _FEW_LABELS, _EXTREMES = 20, 12, 3
_WIDEST = 30  # characters of all labels together, above which they are numbered in the table
_BLOCK = 5_000_000  # numbers of a histogram held at a time
_SAMPLES = 10_000  # whose inputs are held at a time


@dataclass(frozen=True, eq=False)
class SplitReport:
    """A split in numbers.

    Attributes:
        kind: what a client's samples are counted by: ``label``, ``token`` or ``quantile`` (of the target).
        categories: labels by name, the most frequent tokens, or quantiles from 1, as in the columns ``share_...``.
        table: one row per client: ``client, name, train_samples, test_samples``; ``group``, its true group of alike
            clients, where that is known; ``total_variation, jensen_shannon``, the distances of its distribution over
            *all* categories to that of all clients together; ``mean_length`` in steps; ``input_mean, input_std`` over
            all valid steps and features (not for tokens); ``target_mean, target_std`` (regression); and the shares. All
            but ``test_samples`` are about training samples.
        left_over: training and test samples that no client holds.
    """

    kind: str
    categories: tuple[str, ...]
    table: pd.DataFrame
    left_over: tuple[int, int]

    @property
    def shares(self) -> NDArray[np.float64]:
        """``[N, categories]``, the share of each category among a client's training samples."""
        return self.table[[f"share_{name}" for name in self.categories]].to_numpy(float)


def describe(dataset: Dataset, assignment: Assignment) -> SplitReport:
    """Return the numbers of a split.

    Raises:
        UserError: if a client has no training samples.
    """
    import pandas as pd

    refuse_empty(assignment)
    sizes, test_sizes = (np.array([len(own) for own in part]) for part in (assignment.train, assignment.test))
    table: dict[str, object] = {"client": np.arange(len(sizes)), "name": assignment.client_names}
    table |= {"train_samples": sizes, "test_samples": test_sizes}
    if (groups := dataset.groups_of(assignment.train)) is not None:
        table["group"] = groups
    kind, values, count = _categories(dataset)
    whole = sum(block.sum(0) for block in _histograms(values, assignment.train, count))
    whole = np.asarray(whole, float) / np.sum(whole)
    shown = np.argsort(-whole, kind="stable")[:TOKENS] if kind == "token" else np.arange(count)
    columns: list[tuple[NDArray[np.float64], ...]] = []
    for block in _histograms(values, assignment.train, count):
        own = block / np.maximum(block.sum(1, keepdims=True), 1)
        columns.append((total_variation(own, whole), jensen_shannon(own, whole), own[:, shown]))
    table["total_variation"], table["jensen_shannon"], shares = map(np.concatenate, zip(*columns, strict=True))
    seen = observed(dataset, assignment).train
    table["mean_length"] = _per_client(seen.lengths.astype(float), assignment.train) / sizes
    if dataset.vocabulary_size is None:
        table["input_mean"], table["input_std"] = _input_moments(seen, assignment.train)
    if dataset.task is Task.REGRESSION:
        scores = target_scores(dataset)[0]
        mean = _per_client(scores, assignment.train) / sizes
        from_mean = scores.copy()
        for own, centre in zip(assignment.train, mean, strict=True):
            from_mean[own] -= centre
        table["target_mean"] = mean
        table["target_std"] = np.sqrt(_per_client(from_mean**2, assignment.train) / sizes)
    known = dataset.fitted.labels if kind == "label" else ()
    names = tuple(known[k] if known else str(k + 1 if kind == "quantile" else k) for k in shown)
    frame = pd.DataFrame(table)
    frame = pd.concat([frame, pd.DataFrame(shares, columns=[f"share_{name}" for name in names])], axis=1)
    held = sum(map(len, assignment.validation or ()))
    apart = assignment.unseen
    trained, tested = (0, 0) if apart is None else (sum(map(len, part)) for part in (apart.train, apart.test))
    left = len(dataset.train) - int(sizes.sum()) - held - trained, len(dataset.test) - int(test_sizes.sum()) - tested
    return SplitReport(kind, names, frame, left)


def total_variation(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the absolute difference of distributions ``[N, L]`` and ``[L]``: 0 for equal ones, 1 for disjoint ones."""
    distance: NDArray[np.float64] = np.abs(p - q).sum(1) / 2
    return distance


def jensen_shannon(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen-Shannon distance to base 2 (Endres and Schindelin 2003) of ``[N, L]`` and ``[L]``, from 0 to 1."""
    middle = (p + q) / 2

    def divergence(a: NDArray[np.float64]) -> NDArray[np.float64]:
        ratio = np.divide(a, middle, out=np.ones_like(middle), where=a > 0)
        total: NDArray[np.float64] = (a * np.log2(ratio)).sum(1)
        return total

    distance: NDArray[np.float64] = np.sqrt(np.maximum(divergence(p) + divergence(np.broadcast_to(q, p.shape)), 0) / 2)
    return distance


def _categories(dataset: Dataset) -> tuple[str, NDArray[np.int64], int]:
    """What samples are counted by, the categories ``[S]`` or ``[S, T]`` of the training samples, and their number."""
    if dataset.task is Task.REGRESSION:
        return "quantile", quantile_bins(dataset, QUANTILES)[0], QUANTILES
    kind = "token" if dataset.task is Task.SEQUENCE_LABELLING else "label"
    return kind, dataset.train.targets.astype(np.int64), dataset.num_outputs


def _histograms(
    values: NDArray[np.int64], members: Sequence[NDArray[np.int64]], count: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the clients' histograms, ``[some clients, count]`` at a time."""
    step = max(1, _BLOCK // count)
    for start in range(0, len(members), step):
        block = members[start : start + step]
        own = values[np.concatenate(block)]
        owners = np.repeat(np.arange(len(block)), [len(one) for one in block])
        if own.ndim == 2:
            known = own != IGNORE
            owners, own = np.repeat(owners, known.sum(1)), own[known]
        yield np.bincount(owners * count + own, minlength=len(block) * count).reshape(len(block), count)


def _per_client(values: NDArray[np.float64], members: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Sum a number per sample over each client's samples."""
    return np.array([values[own].sum() for own in members])


def _input_moments(
    split: Split, members: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each client's inputs, over valid steps and features."""
    numbers = _per_client(split.lengths.astype(float) * split.features, members)
    sums, squares = np.zeros(len(split)), np.zeros(len(split))
    for first in range(0, len(split), _SAMPLES):
        inputs = np.asarray(
            split.take(slice(first, first + _SAMPLES)), np.float64
        )  # zero after the end of each sequence
        sums[first : first + _SAMPLES] = inputs.sum((1, 2), dtype=np.float64)
        squares[first : first + _SAMPLES] = np.einsum("std,std->s", inputs, inputs, dtype=np.float64)
    mean, square = _per_client(sums, members) / numbers, _per_client(squares, members) / numbers
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


# ---------------------------------------------------------------------------------------------------------------------
# on the terminal


def summary(report: SplitReport) -> dict[str, str]:
    """The split as a whole, as label and text."""
    table, per = report.table, {"label": "labels", "token": "tokens", "quantile": "quantiles of the target"}
    empty = int((table["test_samples"] == 0).sum())
    tv, js = table["total_variation"], table["jensen_shannon"]
    lines = {
        "clients": f"{len(table):,}" + (f", of which {empty:,} without test samples" if empty else ""),
        "training samples": f"{table['train_samples'].sum():,}, per client {_range(table['train_samples'])}",
        "test samples": f"{table['test_samples'].sum():,}, per client {_range(table['test_samples'])}",
        "heterogeneity": f"over {per[report.kind]}: mean total variation {tv.mean():.3f} (max {tv.max():.3f}), "
        f"mean Jensen-Shannon distance {js.mean():.3f} (max {js.max():.3f})",
        "sequence length": f"mean per client {_range(table['mean_length'])}",
    }
    if any(report.left_over):
        lines["held by no client"] = "{:,} training and {:,} test samples".format(*report.left_over)
    if "input_std" in table:
        lines["inputs"] = f"mean per client {_range(table['input_mean'])}; deviation {_range(table['input_std'])}"
    return lines


def _range(values: pd.Series[float]) -> str:
    middle = float(values.median())
    if values.dtype.kind == "i":
        return f"min {values.min():,}, median {f'{middle:,.1f}'.removesuffix('.0')}, max {values.max():,}"
    return f"min {values.min():.3g}, median {middle:.3g}, max {values.max():.3g}"


def render(report: SplitReport, title: str, about: Mapping[str, str]) -> list[RenderableType]:
    """Return the summary and a table of all clients, or of a few extreme ones, for the terminal.

    Args:
        report: the split.
        title: what it is of.
        about: what the data are, text by label.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text  # not plain strings, in which rich reads [brackets] as markup

    lines = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    lines.add_column(style="cyan", no_wrap=True)
    lines.add_column()
    for label, text in {**about, **summary(report)}.items():
        lines.add_row(Text(label), Text(printable(text)))
    clients = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    rows, marks = _rows(report)
    if marks:
        clients.add_column("")
    few = report.kind == "label" and len(report.categories) <= _FEW_LABELS
    moments = [name for name in ("target_mean", "target_std") if name in report.table]
    grouped = ["group"] if "group" in report.table else []
    clients.add_column("client", overflow="fold")
    labels = report.categories if few else ()
    if numbered := sum(map(len, labels)) > _WIDEST:
        labels = tuple(map(str, range(len(labels))))
    headers = ["train", "test", *grouped, *labels, *(name.replace("_", "\n") for name in moments)]
    for header in [*headers, "TV", "JS"]:
        clients.add_column(Text(printable(header)), justify="right", no_wrap=True)
    if report.kind == "label" and not few:
        clients.add_column("largest shares", no_wrap=True)
    shares = report.shares
    for at, row in enumerate(rows):
        one = report.table.iloc[row]
        cells = [marks[at]] if marks else []
        cells += [str(one["name"]), str(one["train_samples"]), str(one["test_samples"])]
        cells += [str(one[name]) for name in grouped]
        cells += [_percent(share) for share in shares[row]] if few else []
        cells += [f"{one[name]:.4g}" for name in moments]
        cells += [f"{one['total_variation']:.2f}", f"{one['jensen_shannon']:.2f}"]
        if report.kind == "label" and not few:
            top = [k for k in np.argsort(-shares[row], kind="stable")[:3] if shares[row, k] > 0]
            cells.append(", ".join(f"{report.categories[k]}: {_percent(shares[row, k])} %" for k in top))
        clients.add_row(*(Text(printable(cell)) for cell in cells))
    notes = "TV, JS: total variation and Jensen-Shannon distance to the distribution of all clients together"
    if few:
        named = f" ({', '.join(f'{k}: {name}' for k, name in enumerate(report.categories))})" if numbered else ""
        notes = f"{labels[0]} to {labels[-1]}: percent of a client's samples with that label{named}\n{notes}"
    if marks:
        notes += f"\n{len(rows)} of {len(report.table):,} clients; --csv FILE has all of them"
    heading = Text("partition", style="bold") + Text(printable(f" {title}"), style="not bold")
    return [heading, lines, Text(), clients, Text(), Text(printable(notes), style="dim"), Text("nothing was trained")]


def _percent(share: float) -> str:
    return "-" if share == 0 else "<1" if share < 0.005 else f"{100 * share:.0f}"


def _rows(report: SplitReport) -> tuple[list[int], list[str]]:
    """The rows to show and, unless these are all, why each is shown."""
    table = report.table
    if len(table) <= _FEW_CLIENTS:
        return list(range(len(table))), []
    sizes, skews = table["train_samples"].to_numpy(), table["total_variation"].to_numpy()
    ranked = {"smallest": sizes, "largest": -sizes, "most skewed": -skews}
    chosen: dict[int, str] = {}
    for why, ranks in ranked.items():
        if ranks.min() == ranks.max():
            continue  # all the same
        for row in np.argsort(ranks, kind="stable")[:_EXTREMES].tolist():
            chosen[row] = f"{chosen[row]}, {why}" if row in chosen else why
    chosen = chosen or dict.fromkeys(range(_EXTREMES), "first")
    return list(chosen), list(chosen.values())
