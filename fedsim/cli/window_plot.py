"""``fedsim run --dry-run --plot FILE``: a few samples with what is to be predicted, as a picture."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedsim.caches import find_place_for_matplotlib
from fedsim.cli.partition_plot import METADATA
from fedsim.compare.escape import drawn
from fedsim.compare.plot import style
from fedsim.data.dataset import IGNORE, Task
from fedsim.data.fitted import Column, arrays
from fedsim.data.population import Population

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

PANELS, FEATURES = 6, 6
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito, told apart by everyone


def draw(population: Population, kind: str) -> bytes:
    """Return a picture of the kind ``png``, ``svg`` or ``pdf``: one training sample each of up to six clients.

    A sample's features are lines over its steps, in the units that the model sees, with what is to be predicted beside
    them: the values ahead as dots in the colour of their history, else the target or the label in words. Tokens are
    written out.
    """
    find_place_for_matplotlib()
    from matplotlib.figure import Figure

    clients = np.unique(np.linspace(0, population.num_clients - 1, PANELS).astype(int)).tolist()
    rows = -(-len(clients) // 2)
    content = io.BytesIO()
    with style():
        numbers = population.vocabulary_size is None
        figure = Figure(figsize=(7.2, 0.6 + (1.7 if numbers else 1.0) * rows), layout="constrained")
        panels = figure.subplots(rows, min(2, len(clients)), squeeze=False).flat
        for axes, client in zip(panels, clients, strict=False):
            first, last = int(population.train.offsets[client]), int(population.train.offsets[client + 1])
            sample = (first + last) // 2
            name = population.client_names[client]
            axes.set_title(drawn(name if len(name) <= 30 else f"{name[:29]}…"), fontsize=8, loc="left")
            (_series if numbers else _tokens)(axes, population, sample)
        for axes in list(panels):  # a panel without a client
            axes.set_axis_off()
        if numbers:
            figure.supxlabel(
                "steps; 0 is the last one seen" + (", dots are to be predicted" if population.forecast else "")
            )
            handles = figure.axes[0].get_legend_handles_labels()[0]
            figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=7)
        figure.savefig(content, format=kind, dpi=200, metadata=METADATA[kind])
    return content.getvalue()


def _series(axes: Axes, population: Population, sample: int) -> None:
    """Lines of up to `FEATURES` features, and what is to be predicted."""
    from matplotlib.ticker import MaxNLocator

    train, forecast = population.train, population.forecast
    steps = int(train.lengths[sample])
    inputs = train.take(torch.tensor([sample], device=train.inputs.device))[0, :steps].cpu().double().numpy()
    names = [column.name for column in population.fitted.scaling.features] or [str(k) for k in range(inputs.shape[1])]
    places = [place for place in (forecast.places if forecast else ()) if place is not None]
    shown = [*dict.fromkeys([*places, *range(inputs.shape[1])])][:FEATURES]  # those that are predicted first
    for colour, k in zip(_COLOURS, shown, strict=False):
        axes.plot(range(1 - steps, 1), inputs[:, k], color=colour, linewidth=1, label=drawn(names[k][:25]))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    if forecast is not None and len(places) == len(forecast.places):
        wide = max(len(forecast.quantiles), 1)
        ahead = train.targets[sample].cpu().double().numpy().reshape(forecast.horizon, -1, wide)[..., 0]
        for k, place in enumerate(places):
            if place in shown:
                colour = _COLOURS[shown.index(place)]
                axes.plot(range(1, forecast.horizon + 1), ahead[:, k], ".", color=colour, markersize=4)
    axes.set_title(drawn(_target(population, sample)), fontsize=8, loc="right")


def _target(population: Population, sample: int) -> str:
    """What is to be predicted, in words and in its own unit."""
    target = population.train.targets[sample].cpu()
    if population.task is not Task.REGRESSION:
        names = population.fitted.labels
        values = [int(value) for value in target.reshape(-1).tolist() if value != IGNORE]
        shown = [names[value] if value < len(names) else str(value) for value in values[:8]]
        return ("label " if len(values) == 1 else "labels ") + ", ".join(shown) + (" …" if len(values) > 8 else "")
    known: tuple[Column, ...] = population.fitted.scaling.targets
    if population.forecast is not None or len(known) not in (0, len(target)):
        return ""
    shift, scale = arrays(known or [Column("target")])
    own: NDArray[np.float64] = target.double().numpy() * scale + shift
    names = tuple(column.name for column in known) or ("target",) * len(own)
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, own.tolist(), strict=True))


def _tokens(axes: Axes, population: Population, sample: int) -> None:
    """The tokens as text, with the label or the token that follows the last one."""
    train, names = population.train, population.fitted.vocabulary
    seen = train.inputs[sample, : int(train.lengths[sample])].tolist()
    words = [names[k] if k < len(names) else str(k) for k in seen]
    text = ("" if names and all(len(name) == 1 or name[:1] == "<" for name in names) else " ").join(words)
    axes.set_axis_off()
    body = "\n".join(textwrap.wrap(text.replace("\n", "⏎"), 48, drop_whitespace=False)[:7])
    axes.text(0, 1, drawn(body), family="monospace", fontsize=7, va="top", transform=axes.transAxes)
    target: Any = train.targets[sample].reshape(-1)
    target = target[target != IGNORE][-1].item() if bool((target != IGNORE).any()) else None
    known = population.fitted.labels if population.task is Task.CLASSIFICATION else names
    if target is not None:
        shown = (repr(known[target]) if len(known[target]) == 1 else known[target]) if target < len(known) else target
        axes.set_title(drawn(f"→ {shown}"), fontsize=8, loc="right")
