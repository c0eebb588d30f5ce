"""The documentation site: `make docs` builds it into build/site, warnings are errors."""

import os

project = "specdiag"
author = "The specdiag developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "specdiag"
html_show_sphinx = False
# Links to the documentation of other libraries, where the site is published: without a network, the
# list of their pages is missing.
if "READTHEDOCS" in os.environ:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "xarray": ("https://docs.xarray.dev/en/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
    }
myst_heading_anchors = 4
napoleon_google_docstring = False
autodoc_typehints_format = "short"
nb_execution_mode = "force"  # notebooks are stored without outputs
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell, on a busy machine
nb_merge_streams = True
nb_output_stderr = "error"  # a warning in a notebook is one of the build
