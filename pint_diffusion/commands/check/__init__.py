"""``pint-diffusion check``: where ranks run, what is wrong, and what to do.

One file per kind of finding. `quick` has the checks that every run makes, `command` all of them.
"""
