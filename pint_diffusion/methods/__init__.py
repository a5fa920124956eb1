"""Sampling methods: coroutines only, no transports. A new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from pint_diffusion.methods.parareal import parareal
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.sequential import sequential
from pint_diffusion.runtime.scheduler import Runtime

METHODS: dict[str, Callable[[Runtime, Problem], None]] = {
    "sequential": sequential,
    "parareal": parareal,
}
"""Methods by the name they have on the command line."""
