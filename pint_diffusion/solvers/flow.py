"""Solvers of the flow-matching ODE dz / d sigma = v (Lipman et al. 2023, arXiv 2210.02747).

z = (1 - sigma) x0 + sigma eps, so z = x / (a + s) and sigma = s / (a + s); v = eps - x0.
"""

from __future__ import annotations

from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.solvers.solver import Evaluate, Stride


async def flow_euler(evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
    """Step with z' = z + (sigma' - sigma) v. Parameters as for `ddim`."""
    here, there = stride.here, stride.there
    v = _velocity(await evaluate(x, here))
    return _size(there) * (x / _size(here) + (_sigma(there) - _sigma(here)) * v)


async def flow_heun(evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
    """Step with Heun's method in z; a step into clean data is Euler's. Parameters as for `ddim`."""
    here, there = stride.here, stride.there
    z, dt = x / _size(here), _sigma(there) - _sigma(here)
    v = _velocity(await evaluate(x, here))
    end = _size(there) * (z + dt * v)
    if there.s == 0:
        return end
    v_there = _velocity(await evaluate(end, there))
    return _size(there) * (z + dt / 2 * (v + v_there))


def _velocity(seen: Prediction) -> Tensor:
    return seen.eps - seen.x0


def _size(level: Level) -> float:
    return level.a + level.s


def _sigma(level: Level) -> float:
    return level.s / (level.a + level.s)
