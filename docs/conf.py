"""The documentation site: `make docs` builds it into build/site, warnings are errors."""

project = "specdiag"
author = "The specdiag developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "specdiag"
html_show_sphinx = False
myst_heading_anchors = 4
napoleon_google_docstring = False
autodoc_typehints = "none"  # the docstrings have them
