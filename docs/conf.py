"""The documentation site: `make docs` builds it into build/site, warnings are errors."""

project = "specdiag"
author = "The specdiag developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "specdiag"
html_show_sphinx = False
myst_heading_anchors = 4
napoleon_google_docstring = False
autodoc_typehints = "none"  # the docstrings have them
nb_execution_mode = "force"  # notebooks are stored without outputs
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell, on a busy machine
nb_merge_streams = True
nb_output_stderr = "error"  # a warning in a notebook is one of the build
