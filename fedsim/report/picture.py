"""The pictures of ``fedsim compare --plot`` within a page: no header, no addresses, and the page's own colours."""

from __future__ import annotations

import importlib.util
import re

from fedsim.compare import plot
from fedsim.compare.table import Comparison
from fedsim.errors import UserError
from fedsim.extras import install_hint

MISSING = f"No curves: matplotlib is not installed. To have them, {install_hint('plot')}, and write this again."


def pictures(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Draw the curves, and a heat map where two numbers were swept.

    Returns:
        The SVG elements, to be put into HTML as they are; and sentences on what they leave out.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return [], [MISSING]
    drawn, said = [], []
    try:
        drawn.append(_inline(plot.draw(comparison, "svg", heatmap=False), "Learning curves", recoloured=True))
        said += [text.removeprefix("--plot: ") for text in plot.cut_short(comparison.groups)]
    except UserError as error:
        said.append(f"No curves: {str(error).removeprefix('--plot: ')}")
    if plot.is_grid(comparison):
        try:
            drawn.append(_inline(plot.draw(comparison, "svg", heatmap=True), "Heat map", recoloured=False))
        except UserError as error:
            said.append(f"No heat map: {str(error).removeprefix('--heatmap: ')}")
    return drawn, said


def _inline(content: bytes, title: str, recoloured: bool) -> str:
    """The element that matplotlib wrote, without what is around it.

    Comments go, since they hold the names that are drawn; drawn they are outlines, which hold no text.
    """
    text = content.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    if recoloured:  # black and white are the page's ink and paper, whichever these are
        text = re.sub(r'(<g id="patch_\d+">\s*<path [^>]*style="fill: )#ffffff', r"\1none", text)
        text = (
            text.replace("#000000", "currentColor").replace("#e6e6e6", "var(--rule)").replace("#bfbfbf", "var(--faint)")
        )
    place = "ink" if recoloured else "paper"
    found = re.search(r'viewBox="0 0 ([\d.]+) ', text)
    width = float(found[1]) if found else 400.0  # in points; the text is as large in narrow pictures as in wide ones
    size = f"min-width: {width / 18.5:.0f}rem; max-width: {width / 8.6:.0f}rem"
    element = f'<svg class="{place}" style="{size}" role="img" aria-label="{title}"'
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', element, text, count=1)
