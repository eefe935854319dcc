"""A hook of mkdocs: long code in a table's cell may break between words, and nowhere else (see docs/extra.css)."""

import re

LONG = 45
"""Characters from which on a command is too long for one line of a cell."""


def on_page_content(content, page, config, files):
    """Mark the words of long code in tables."""
    return re.sub(
        r"<td[^>]*>.*?</td>", lambda cell: re.sub(r"<code>(.*?)</code>", broken, cell[0]), content, flags=re.S
    )


def broken(code):
    """Code with each word in a span of its own, if it is long and has several."""
    words = code[1].split(" ")
    if len(code[1]) < LONG or len(words) == 1:
        return code[0]
    return '<code class="long">' + " ".join(f"<span>{word}</span>" for word in words) + "</code>"
