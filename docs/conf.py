"""The documentation of pypoll: ``sphinx-build -W -b html docs build/docs``."""

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
