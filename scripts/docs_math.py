"""A hook of mkdocs that writes formulas as MathML, which browsers show without a script: ``$...$`` and ``$$...$$``."""

import html
import re

FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.S)
"""What pymdownx.arithmatex (``generic: true``) makes of a formula."""


def on_page_content(content, page, config, files):
    """Replace the formulas of a page."""
    return FORMULA.sub(formula, content)


def formula(found):
    """One formula; what the converter does not know ends the build."""
    inline, block = found[2], found[3]
    if block is None:
        return mathml(html.unescape(inline), "inline")
    return f'<div class="formula">{mathml(html.unescape(block), "block")}</div>'


def mathml(text, display):
    """LaTeX as MathML."""
    from latex2mathml.converter import convert

    made = convert(text.strip(), display=display)
    if "\\" in made or re.search(r"&(?!#?\w+;)", made):  # a command or an alignment that it has passed through
        raise ValueError(f"a formula of the documentation cannot be converted: {text}")
    return re.sub(r"<mo>(&#x02016;|&#x0007C;)</mo>", r'<mo stretchy="false">\1</mo>', made)  # bars of one height
