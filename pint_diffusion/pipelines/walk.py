"""The user's scheduler as a solver, and the pipeline's loop as a propagator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.methods.problem import Problem, Remake
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.pipelines.evaluator import LoopEvaluator
from pint_diffusion.pipelines.levels import Memory, Place
from pint_diffusion.pipelines.packing import Packing
from pint_diffusion.solvers.propagator import Propagator
from pint_diffusion.solvers.response import Responses
from pint_diffusion.solvers.solver import Evaluate, Past, Stride


class UsersScheduler(NamedTuple):
    """The scheduler of a pipeline, as a solver: its step is the body that evaluates at a place.

    Attributes
    ----------
    name : str
        Name of its class.
    packing : Packing
        Layout of the states.
    multistep : bool
        It remembers something of the samples from step to step.
    stochastic : bool
        Its steps draw noise.
    bodies : LoopEvaluator
        Runs the bodies.
    """

    name: str
    packing: Packing
    multistep: bool
    stochastic: bool
    bodies: LoopEvaluator
    evaluations: int = 1
    starts_here: bool = False
    crosses: bool = True

    @property
    def history(self) -> int:
        """H: tensors of a state beside x."""
        return self.packing.history

    async def step(self, evaluate: Evaluate, x: Tensor, past: Past, stride: Stride) -> Any:
        """Run a body; where the network is made up, make its scheduler's step alone."""
        here = stride.here
        assert isinstance(here, Place)
        seen = await evaluate(x, here.remembering(past))
        if seen.output is None:
            return self.bodies.imagined(here, x, past, seen.eps)
        x, *after = self.packing.parts(seen.output)[: 1 + self.history]
        return x, Memory.of(tuple(after), self.bodies.live(seen.output))


@dataclass(frozen=True)
class LoopWalk(Propagator):
    """The fine propagator F of a pipeline: N - 1 steps, of which step i is body i + 1.

    Attributes
    ----------
    first : Tensor, shape (1 + H, S, D)
        State after body 0.
    """

    first: Tensor

    def bare(self, x: Tensor) -> Tensor:
        """Make a state of x (S, D), with its history if the walk begins there."""
        return self.first if x.data_ptr() == self.first.data_ptr() else super().bare(x)

    def start(self, x: Tensor) -> Tensor:
        """Make a state of x, see `bare`."""
        return self.bare(x)

    def carried(self, n: int, k: int) -> int:
        """Return the number of tensors of u_n^k that are there; coarse solves give x alone."""
        return self.history if n == 0 or k > 0 or not self.solver.multistep else 0

    def carried_at(self, i: int) -> int:
        """Return the number of tensors carried in a walk from the first state: H."""
        return self.history

    async def step(self, evaluate: Evaluate, x: Tensor, past: Past, i: int) -> tuple[Tensor, Past]:
        """Run body i + 1 on x (S, D); return x' and what is carried on."""
        after: tuple[Tensor, Past] = await self.solver.step(evaluate, x, past, self.stride(i))
        return after


def responses(walk: Propagator) -> Responses:
    """Return the responses of DDIM steps between the places of a walk.

    The rows beside x are no numbers to calculate with: they do not move.
    """
    levels = walk.grid.levels
    a, s = (np.array([getattr(level, name) for level in levels]) for name in "as")
    parts = 1 + walk.solver.history
    moves = np.zeros((len(levels) - 1, 2, 1 + parts, parts))
    moves[:, 0, 0, 0] = 1
    share = np.divide(a[1:], a[:-1], out=np.zeros(len(a) - 1), where=a[:-1] > 0)
    moves[:, 0, 1, 0], moves[:, 1, 1, 0] = share, s[1:] - share * s[:-1]
    places = tuple((level,) for level in levels[:-1])
    return Responses(places, a[:-1, None], s[:-1, None], moves)


class LoopProblem(Problem):
    """The problem of a pipeline: its outputs are whole states, and its samples go together."""

    together: ClassVar[bool] = True

    def responses(self) -> Responses:
        """Return what the steps make of a state that moves."""
        return responses(self.fine)

    def seen(self, x: Tensor, output: Tensor, a: Tensor, s: Tensor) -> Prediction:
        """Return what was seen in states x (n, D), of outputs as `LoopEvaluator` gives them."""
        eps = self.solver.packing.parts(output)[-1]
        return Prediction((x - s * eps) / a, eps, None, output)

    def remake(self, points: Sequence[int], outputs: Tensor) -> Remake | None:
        """Return what makes the scheduler's steps again; none where its steps are linear."""
        solver, levels = self.solver, self.grid.levels
        if not solver.multistep:
            return None

        def make(j: int, state: Tensor, move: Tensor, kappa: Tensor) -> Tensor:
            place = levels[points[j]]
            assert isinstance(place, Place)
            x, *past = state.unbind()
            said = solver.packing.said(outputs[j])
            x, new = solver.bodies.again(place, x, tuple(past), said, move, kappa)
            return torch.stack([x, *new])

        return make

    @property
    def solver(self) -> UsersScheduler:
        """The user's scheduler."""
        solver: Any = self.fine.solver
        return cast(UsersScheduler, solver)

    def shown(self, state: Tensor) -> Tensor:
        """Return the whole state as the answer: the pipeline ends with it."""
        return state
