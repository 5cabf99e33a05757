"""The documentation of pypoll: ``sphinx-build -W -b html docs build/docs``."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import pypoll

project = "pypoll"
author = "The pypoll developers"
project_copyright = author
version = release = pypoll.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"pypoll {version}"
html_static_path = ["_static"]
html_css_files = ["pypoll.css"]
html_show_sphinx = False
pygments_dark_style = "monokai"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(collections\.abc|selectors|typing)\..*")]

myst_heading_anchors = 3

# Docstrings write `Poll` for a link.
default_role = "py:obj"
autodoc_member_order = "bysource"
# Types by their names, which the reference explains.
autodoc_type_aliases = {
    f"pypoll.types.{name}": f"pypoll.types.{name}"
    for name in ("FileDescriptorLike", "RealNumber", "SignalMask", "Timeout")
}


def include_with_links(app: Sphinx, _docname: str, source: list[str]) -> None:
    """Include a file of the top directory; of its links, the site has those to docs/."""
    included = re.fullmatch(r"```{include} (\.\./\w+\.md)\n```\n", source[0])
    if included:
        path = Path(app.srcdir, included[1])
        app.env.note_dependency(path)
        text = path.read_text("utf-8").replace("](docs/", "](./")
        source[0] = re.sub(r"\[([^]]*)\]\((?!https?:|#|\./)[^)]*\)", r"\1", text)


def setup(app: Sphinx) -> None:
    """Register the function above."""
    app.connect("source-read", include_with_links)
