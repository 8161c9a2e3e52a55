"""The colours of pages, figures and pictures, and the head that all pages have: each said once.

::

    COLOURS  ->  fill(template, …)    variables of a page, each of which has two values: light and dark
             ->  LIGHT                for a picture on white
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path

COLOURS: Mapping[str, tuple[str, str]] = {
    # what a page is made of
    "page": ("#f6f7f9", "#11141a"),
    "panel": ("#ffffff", "#181c24"),
    "text": ("#1c2230", "#e4e8ef"),
    "caption": ("#4a5467", "#b9c1cf"),
    "soft": ("#667085", "#98a2b3"),
    "line": ("#d8dde6", "#2d3442"),
    "accent": ("#2f6fed", "#79a6ff"),
    # modules, parameters, and the calls between them
    "box": ("#ffffff", "#1f2530"),
    "frame": ("#f1f3f7", "#161a22"),
    "matrix": ("#dfe4ec", "#333c4b"),
    "edge": ("#a9b2c1", "#56607a"),
    # the states of groups
    "prunable": ("#14936b", "#3ccf9e"),
    "statistics": ("#c27a06", "#f0b040"),
    "rank": ("#7a53d6", "#a98bff"),
    "frozen": ("#8a93a3", "#7d8798"),
    # the same, in the background of text
    "prunable-fill": ("#d3efe4", "#173d31"),
    "statistics-fill": ("#fbe8c8", "#45330f"),
    "rank-fill": ("#e5dcfa", "#2f2453"),
    "frozen-fill": ("#e6e9ee", "#272d38"),
    # what is kept, and what was before and between
    "kept": ("#14936b", "#3ccf9e"),
    "removed": ("#d9822b", "#e99a4b"),
    "dense": ("#98a2b4", "#6d7789"),
    "middle": ("#74c3a8", "#247a5e"),
    "cell": ("#e9edf3", "#262d39"),
    "on": ("#fefefe", "#0b1f18"),
}

LIGHT: Mapping[str, str] = {name: light for name, (light, _) in COLOURS.items()}
"""What each colour is on white."""

HEAD = Path(__file__).with_name("head.html")


def fill(template: Path, *, title: str, scripts: bool = False, **values: str) -> str:
    """A page from its template: ``{{head}}`` is the head of all pages, other names in braces are from ``values``.

    ``title`` is text, and the values are HTML. Only a page with ``scripts`` may run those that it has inside.
    """
    colours = "\n".join(f"  --{name}: light-dark({light}, {dark});" for name, (light, dark) in COLOURS.items())
    allowed = "; script-src 'unsafe-inline'" if scripts else ""
    named = {**values, "title": html.escape(title), "colours": colours, "scripts": allowed}
    text = template.read_text(encoding="utf-8").replace("{{head}}", HEAD.read_text(encoding="utf-8").rstrip())
    return re.sub(r"\{\{(\w+)\}\}", lambda found: named[found[1]], text)
