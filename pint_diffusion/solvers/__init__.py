"""Solvers and the propagators built of them. A new solver is one file and its import here."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from pint_diffusion.options import Registry
from pint_diffusion.solvers.adams import DEIS, DEIS3, PNDM
from pint_diffusion.solvers.ddim import DDIM, LambdaDDIM
from pint_diffusion.solvers.ddpm import DDPM
from pint_diffusion.solvers.dpm_solver import (
    DPMpp1,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    DPMpp3MFull,
    SDEDPMpp1,
)
from pint_diffusion.solvers.euler import DPM2, Euler, EulerAncestral, Heun
from pint_diffusion.solvers.exponential import OUODE, OUSDE
from pint_diffusion.solvers.flow import FlowEuler, FlowHeun
from pint_diffusion.solvers.propagator import Propagator, knowing
from pint_diffusion.solvers.solver import Evaluate, Multistep, Past, Solver, Stride
from pint_diffusion.solvers.unipc import UniPC, UniPC3

SOLVERS = Registry(Solver, globals())
"""Solvers by the name they have on the command line."""

AnySolver = Annotated[Solver, BeforeValidator(SOLVERS.make)]
"""Type of a field with a solver: an object, a name, or a mapping of name and options."""

__all__ = [
    "SOLVERS",
    "AnySolver",
    "Evaluate",
    "Multistep",
    "Past",
    "Propagator",
    "Solver",
    "Stride",
    "knowing",
    *(solver.__name__ for solver in SOLVERS.values()),
]
