"""Configuration of the documentation site (`make docs`): Sphinx, with MyST for Markdown and notebooks."""

import shutil
import sys
from importlib.metadata import version as installed
from pathlib import Path

DOCS = Path(__file__).parent
sys.path += [str(DOCS / "_ext")]

# Sphinx reads below docs/ only.
shutil.copytree(DOCS.parent / "analysis" / "notebooks", DOCS / "notebooks", dirs_exist_ok=True)

project = "mpcwdwm"
release = version = installed("mpcwdwm")
author = "the mpcwdwm authors"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "config_fields"]
exclude_patterns = ["_build"]

# Pages are Markdown that reads on the web as it is: headings get the anchors that links there have.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_render_markdown_format = "myst"  # outputs in Markdown have tables
nb_execution_mode = "off"  # notebooks are shown with the outputs they were committed with

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "literal"  # `code` in docstrings, as in Markdown

html_theme = "furo"
html_title = "mpcwdwm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
