"""The picture of a round in docs/what-is-simulated.md: ``python scripts/draw_round.py [FILE]`` (docs/round.svg).

It is drawn on a white card, so that it reads in light and in dark mode. The same versions write the same bytes.
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "round.svg"
INK, GREY, DOWN, UP = "#26323f", "#8a95a1", "#3b6fb6", "#c2571a"
CLIENTS = ("#5b8c5a", "#b5527d", "#8c7135")
"""Colours of the three clients that take part."""
LABELS = ((6, 1, 0, 0), (0, 1, 5, 2), (1, 3, 0, 3))
"""How many samples of each of four labels they hold."""


def box(ax, x, y, width, height, edge, face="#f7f9fb", style="-"):
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=1.2", ec=edge, fc=face, lw=1.4, ls=style
    )
    ax.add_patch(shape)


def row(ax, x, y, colour, cells=10, size=1.7, alpha=0.85):
    """A model or a delta: one row of numbers."""
    for k in range(cells):
        shade = alpha * (0.35 + 0.65 * ((k * 7 + 3) % 5) / 4)
        ax.add_patch(Rectangle((x + k * size, y), size, size, fc=colour, ec="white", lw=0.8, alpha=shade))


def arrow(ax, start, end, colour):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, lw=1.6, color=colour))


def step(ax, x, y, number, text, colour=INK):
    """A numbered remark."""
    ax.text(x, y, str(number), color="white", fontsize=8.5, weight="bold", ha="center", va="center",
            bbox={"boxstyle": "circle,pad=0.25", "fc": colour, "ec": colour})  # fmt: skip
    ax.text(x + 2.1, y, text, color=colour, fontsize=9.5, va="center", linespacing=1.25)


def draw(file):
    """Draw the picture into a file."""
    plt.rcParams |= {"svg.hashsalt": "round", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    figure, ax = plt.subplots(figsize=(9.6, 6.0))
    figure.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, 100), ylim=(0, 62.5), aspect="equal")
    ax.axis("off")
    card = FancyBboxPatch((0.6, 0.6), 98.8, 61.3, boxstyle="round,pad=0,rounding_size=1.5", fc="white", ec="#d5dbe1")
    ax.add_patch(card)

    box(ax, 4, 40, 92, 19, INK)
    ax.text(6, 56, "Server", fontsize=12, weight="bold", color=INK, va="center")
    step(ax, 7, 51.5, 1, "draws a cohort of clients")
    ax.text(6, 46.8, "global model: one row of P numbers", fontsize=9.5, color=INK, va="center")
    row(ax, 6, 43, DOWN)
    for k, colour in enumerate(CLIENTS):
        row(ax, 46, 48.4 - 2.2 * k, colour)
    ax.text(46, 52.2, "deltas: a matrix [C, P]", fontsize=9.5, color=INK, va="center")
    arrow(ax, (64.5, 47.05), (69.5, 47.05), INK)
    row(ax, 71, 46.2, UP)
    step(ax, 72, 52.2, 5, "combines them into one")
    step(ax, 72, 42.6, 6, "adds it to the global model")

    for k, (colour, labels) in enumerate(zip(CLIENTS, LABELS, strict=True)):
        x = 4 + 24.5 * k
        box(ax, x, 7, 20, 20, colour)
        ax.text(x + 2, 24.3, f"Client {(3, 8, 21)[k]}", fontsize=10.5, weight="bold", color=colour, va="center")
        for label, count in enumerate(labels):
            ax.add_patch(Rectangle((x + 2.2 + 2.6 * label, 14.5), 1.9, 1.1 * count + 0.15, fc=colour, alpha=0.6))
        ax.text(x + 13.4, 17.2, "its own\nsamples", fontsize=8, color=INK, va="center")
        row(ax, x + 1.5, 9.5, colour)
        arrow(ax, (x + 6, 39.5), (x + 6, 27.5), DOWN)
        arrow(ax, (x + 14, 27.5), (x + 14, 39.5), UP)
    box(ax, 77.5, 7, 18.5, 20, GREY, style=(0, (4, 3)))
    ax.text(79.5, 24.3, "Client 14", fontsize=10.5, weight="bold", color=GREY, va="center")
    ax.text(79.5, 17.3, "not drawn in\nthis round", fontsize=9, color=GREY, va="center", linespacing=1.3)
    step(ax, 76.5, 36.5, 2, "the model goes down", DOWN)
    step(ax, 76.5, 31.5, 4, "deltas go up:", UP)
    ax.text(78.6, 29.3, "delta = local − global", fontsize=8.5, color=UP, va="center")
    step(ax, 6, 4.1, 3, "each trains from the global model on its own samples, which never leave it")

    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = Path(file).read_text(encoding="utf-8")
    Path(file).write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else PICTURE)
