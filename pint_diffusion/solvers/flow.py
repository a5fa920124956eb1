"""Solvers of the flow-matching ODE dz / d sigma = v (Lipman et al. 2023, arXiv 2210.02747).

z = (1 - sigma) x0 + sigma eps, so z = x / (a + s) and sigma = s / (a + s); v = eps - x0.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.solvers.solver import Evaluate, Solver, Stride


class FlowEuler(Solver):
    """Euler's method: z' = z + (sigma' - sigma) v."""

    name: ClassVar[str] = "flow_euler"

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        v = _velocity(await evaluate(x, here))
        return _size(there) * (x / _size(here) + (_sigma(there) - _sigma(here)) * v)


class FlowHeun(Solver):
    """Heun's method in z; a step into clean data is Euler's."""

    name: ClassVar[str] = "flow_heun"
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
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
