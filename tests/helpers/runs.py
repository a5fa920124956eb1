"""Run a method without files and collect every boundary state on every rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pint_diffusion.build.plan import Plan, make_plan
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.run import Solution, solve
from pint_diffusion.runtime.events import EVALUATION_KINDS, EventLog
from pint_diffusion.runtime.world import LocalWorld, World
from pint_diffusion.settings.run import Settings


@dataclass(frozen=True)
class Run:
    """What a run did, the same on every rank."""

    plan: Plan | None
    solution: Solution
    boundary: torch.Tensor
    events: np.ndarray

    @property
    def outcome(self) -> Outcome:
        return self.solution.outcome

    @property
    def answer(self) -> torch.Tensor:
        return self.boundary[-1, -1]

    @property
    def evaluations(self) -> int:
        return int(np.isin(self.events["kind"], EVALUATION_KINDS).sum())


def run(world: World, denoiser=None, **settings) -> Run:
    plan = make_plan(Settings(**settings), world, denoiser)
    states: dict[tuple[int, int], torch.Tensor | None] = {}
    events = EventLog(world.rank)
    solution = solve(
        plan, world, events, lambda n, k, x: states.update({(n, k): x}), lambda *_: None
    )
    gathered = world.gather((states, events.table(), solution))
    everything = {key: x for states, *_ in gathered for key, x in states.items()}
    found = gathered[0][2]
    rows = []
    for k in range(found.outcome.iterations + 1):
        row = [everything.get((n, k)) for n in range(plan.problem.columns + 1)]
        rows.append([rows[-1][n] if x is None else x[0] for n, x in enumerate(row)])
    boundary = torch.stack([torch.stack(row) for row in rows])
    return Run(plan, found, boundary, np.concatenate([table for _, table, _ in gathered]))


def run_alone(world: World, denoiser=None, **settings) -> Run:
    """Run in one process: on rank 0, and the others sleep until they are told what came out.

    For what the ranks are compared with. The plan stays on rank 0.
    """
    done = replace(run(LocalWorld(), denoiser, **settings), plan=None) if world.rank == 0 else None
    world.barrier()
    return world.share(done)
