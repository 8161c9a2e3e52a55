"""How the pages of this directory become a site: sphinx-build -W docs SOMEWHERE (see CONTRIBUTING.md)."""

from __future__ import annotations

import re
from typing import Any

import graphprune

project = "graphprune"
author = "the graphprune authors"
release = version = graphprune.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["examples"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links to headings are those of GitHub

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"graphprune {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = html_show_copyright = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
highlight_language = "text"

SECTION = re.compile(r"^## (.+)\n((?:(?!## ).*\n?)*)", re.MULTILINE)
ENTRY = re.compile(r"^- \[(.+?)\]\((.+?)\.(?:md|rst)\)", re.MULTILINE)


def add_navigation(app: Any, page: str, source: list[str]) -> None:
    """Make the lists of index.md, which a reader of the repository sees too, the navigation of the site."""
    if page == "index":
        for title, lines in SECTION.findall(source[0]):
            entries = "\n".join(f"{name} <{target}>" for name, target in ENTRY.findall(lines))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"


def setup(app: Any) -> None:
    app.connect("source-read", add_navigation)
