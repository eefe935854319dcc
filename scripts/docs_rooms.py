"""A hook of mkdocs that draws the rooms of fedsim, from their imports, in docs/architecture.md (``<!-- rooms -->``)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import rooms  # beside this file, which is no package


def on_page_markdown(markdown, page, config, files):
    """Put the picture in its place."""
    if page.file.src_path != "architecture.md":
        return markdown
    picture = rooms.draw(rooms.PACKAGE).replace("\n", "")
    return markdown.replace("<!-- rooms -->", f'<div markdown="0">{picture}</div>')
