"""The program ``pint-diffusion``: one file for each command."""
