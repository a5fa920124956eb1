"""``pint-diffusion compare``: every method on one problem, by its own rule and at equal error."""
