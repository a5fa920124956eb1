"""One-step maps and the propagators built of them. A new solver is one file and one line here."""

from __future__ import annotations

from pint_diffusion.solvers.ddim import ddim
from pint_diffusion.solvers.propagator import Evaluate, Step, knowing, propagate

SOLVERS: dict[str, Step] = {
    "ddim": ddim,
}
"""Solvers by the name they have on the command line."""

__all__ = ["SOLVERS", "Evaluate", "Step", "knowing", "propagate"]
