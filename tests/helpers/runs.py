"""Run a method without files and collect every boundary state on every rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from helpers.flat import settings_of
from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.build.plan import Plan
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.output import Output
from pint_diffusion.result import Run as Result
from pint_diffusion.run import resumed, solve
from pint_diffusion.runtime.world import LocalWorld, World


class States(Output):
    """Keeps the checkpoints in memory: (n, k) -> what was kept of column n at iteration k."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], torch.Tensor | None] = {}

    def state(self, n, k, state):
        self.kept[n, k] = state


@dataclass(frozen=True)
class Run:
    """What a run did, the same on every rank."""

    plan: Plan | None
    result: Result
    states: dict[tuple[int, int], torch.Tensor | None]
    events: np.ndarray

    @property
    def outcome(self) -> Outcome:
        return self.result.outcome

    @property
    def boundary(self) -> torch.Tensor:
        """x of every column at every iteration, (K + 1, M + 1, S, *shape)."""
        last = max(n for n, _ in self.states)
        rows = []
        for k in range(self.outcome.iterations + 1):
            row = [self.states.get((n, k)) for n in range(last + 1)]
            rows.append([rows[-1][n] if x is None else x[0] for n, x in enumerate(row)])
        return torch.stack([torch.stack(row) for row in rows])

    @property
    def evaluations(self) -> int:
        """With those that the answer did not need."""
        return self.result.evaluations + self.result.evaluations_wasted

    @property
    def answer(self) -> torch.Tensor:
        return self.boundary[-1, -1]


def run(world: World, denoiser=None, **settings) -> Run:
    return run_plan(plan_of(settings_of(**settings), world, denoiser), world)


def run_plan(plan: Plan, world: World, restart=None) -> Run:
    """Run a plan, from an iteration of an earlier run if one is given."""
    states = States()
    done = solve(plan if restart is None else resumed(plan, restart), world, [states])
    gathered = world.gather((states.kept, done.events))
    everything = {key: x for kept, _ in gathered for key, x in kept.items()}
    return Run(plan, done, everything, np.concatenate([events for _, events in gathered]))


def run_alone(world: World, denoiser=None, **settings) -> Run:
    """Run in one process, on rank 0; the other ranks sleep until it sends them the result.

    For what the ranks are compared with. The plan stays on rank 0.
    """
    done = replace(run(LocalWorld(), denoiser, **settings), plan=None) if world.rank == 0 else None
    world.barrier()
    return world.share(done)
