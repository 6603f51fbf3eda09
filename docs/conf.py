"""Sphinx configuration."""

project = "everfresh"
author = "The everfresh authors"
copyright = "The everfresh authors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = []
html_theme = "furo"
html_title = "everfresh"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nitpicky = False
