"""``pint-diffusion check``: what runs where, what is wrong with it, and what to do.

One file per kind of finding. `quick` has the part that every run makes, `command` all of it.
"""
