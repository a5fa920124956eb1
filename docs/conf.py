"""Sphinx: make docs."""

project = "pint_diffusion"
author = "The pint_diffusion developers"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
exclude_patterns = ["_build"]
