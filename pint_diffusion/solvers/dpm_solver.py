"""DPM-Solver++: exponential integrators in half the log-SNR lam = log(a / s) that use x0.

Lu et al. 2022, arXiv 2211.01095. h = lam' - lam is the length of a step, infinite for one into
clean data, which is of first order whatever the solver: x' = a' x0.
"""

from __future__ import annotations

from math import exp, expm1, sqrt
from typing import ClassVar

from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.solvers.solver import Evaluate, Multistep, Past, Solver, Stride


class DPMpp1(Solver):
    """DPM-Solver++ of first order: x' = s'/s x - a' expm1(-h) x0."""

    name: ClassVar[str] = "dpmpp_1"

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        x0 = (await evaluate(x, stride.here)).x0
        return _first_order(x, x0, stride.here, stride.there)


class DPMpp2S(Solver):
    """DPM-Solver++(2S): x0 is seen in the middle of the step, in lam (algorithm 1 with r = 1/2)."""

    name: ClassVar[str] = "dpmpp_2s"
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        x0 = (await evaluate(x, here)).x0
        if there.sigma > 0:
            middle = stride.level(sqrt(here.sigma * there.sigma))
            x0 = (await evaluate(_first_order(x, x0, here, middle), middle)).x0
        return _first_order(x, x0, here, there)


class SDEDPMpp1(Solver):
    """SDE-DPM-Solver++ of first order.

    x' = s'/s e^{-h} x + a' (1 - e^{-2h}) x0 + s' sqrt(1 - e^{-2h}) xi.
    """

    name: ClassVar[str] = "sde_dpmpp_1"

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        h = there.lam - here.lam
        x0 = (await evaluate(x, here)).x0
        x = (there.s / here.s * exp(-h)) * x - (there.a * expm1(-2 * h)) * x0
        return x + there.s * sqrt(-expm1(-2 * h)) * stride.noise() if there.s else x

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return True


class DPMpp2M(Multistep):
    """DPM-Solver++(2M): x0 is continued linearly in lam (algorithm 2); one x0 is carried."""

    name: ClassVar[str] = "dpmpp_2m"
    order: ClassVar[int] = 2
    history: ClassVar[int] = 1

    async def step(
        self, evaluate: Evaluate, x: Tensor, past: Past, stride: Stride
    ) -> tuple[Tensor, Past]:
        """Make one step of states x (S, *shape); see `Solver`."""
        x0 = (await evaluate(x, stride.here)).x0
        order = min(len(past) + 1, stride.highest_order(2))
        seen = x0 if order == 1 else _linear(x0, past, stride)
        return _first_order(x, seen, stride.here, stride.there), (x0,)


class DPMpp3M(Multistep):
    """DPM-Solver++(3M): x0 is continued quadratically in lam; two x0 are carried.

    `curvature` weights the second difference of x0. With 2 the quadratic is integrated as it is,
    and the solver has third order. The authors' code, and with it diffusers and k-diffusion, has 1,
    half of that, and second order.
    """

    name: ClassVar[str] = "dpmpp_3m"
    order: ClassVar[int] = 2
    history: ClassVar[int] = 2
    curvature: ClassVar[float] = 1.0

    async def step(
        self, evaluate: Evaluate, x: Tensor, past: Past, stride: Stride
    ) -> tuple[Tensor, Past]:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        x0 = (await evaluate(x, here)).x0
        order = min(len(past) + 1, stride.highest_order(3))
        carried = (x0, *past[:1])
        if order < 3:
            seen = x0 if order == 1 else _linear(x0, past, stride)
            return _first_order(x, seen, here, there), carried
        before, first = stride.levels[stride.i - 1], stride.levels[stride.i - 2]
        h = there.lam - here.lam
        r0, r1 = (here.lam - before.lam) / h, (before.lam - first.lam) / h
        slope0, slope1 = (x0 - past[0]) / r0, (past[0] - past[1]) / r1
        slope = slope0 + (r0 / (r0 + r1)) * (slope0 - slope1)
        curve = (slope0 - slope1) / (r0 + r1)
        phi1 = expm1(-h)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        moved = _first_order(x, x0, here, there)
        return moved + (there.a * phi2) * slope - (self.curvature * there.a * phi3) * curve, carried


class DPMpp3MFull(DPMpp3M):
    """DPM-Solver++(3M) with the quadratic integrated as it is: third order."""

    name: ClassVar[str] = "dpmpp_3m_full"
    order: ClassVar[int] = 3
    curvature: ClassVar[float] = 2.0


def _linear(x0: Tensor, past: Past, stride: Stride) -> Tensor:
    """Continue x0 from the step before to the middle of this one."""
    h = stride.there.lam - stride.here.lam
    h_before = stride.here.lam - stride.levels[stride.i - 1].lam
    return x0 + (0.5 * h / h_before) * (x0 - past[0])


def _first_order(x: Tensor, x0: Tensor, here: Level, there: Level) -> Tensor:
    h = there.lam - here.lam
    return (there.s / here.s) * x - (there.a * expm1(-h)) * x0
