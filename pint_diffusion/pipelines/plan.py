"""From a pipeline's loop and a method to a plan, and the agreement of the ranks on it."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import torch

from pint_diffusion.build.plan import Plan
from pint_diffusion.build.time_grid import slice_bounds
from pint_diffusion.errors import InputError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.methods import Method
from pint_diffusion.numerics.convergence import StopRule
from pint_diffusion.pipelines.evaluator import LoopEvaluator
from pint_diffusion.pipelines.levels import Coefficients, Place
from pint_diffusion.pipelines.loop import PipelineLoop
from pint_diffusion.pipelines.packing import Packing
from pint_diffusion.pipelines.walk import LoopProblem, LoopWalk, UsersScheduler
from pint_diffusion.runtime.device import precision
from pint_diffusion.runtime.world import World
from pint_diffusion.solvers import DDIM, Propagator


def plan_of(loop: PipelineLoop, method: Method, ranks: int) -> Plan:
    """Make what a rank needs to take part in a pipeline's run.

    Parameters
    ----------
    loop : PipelineLoop
        The loop, after its dry walk; of two bodies at least.
    method : Method
        How it is sampled.
    ranks : int
        Number of processes.

    Raises
    ------
    InputError
        If the scheduler and the method do not fit.
    """
    packing = Packing.of([body.after for body in loop.bodies])
    multistep = loop.remembers
    places = _places(loop, method)
    grid = TimeGrid(places, _bounds(loop, places, method, ranks))
    evaluator = LoopEvaluator(loop, packing, multistep)
    x, past = packing.pack(loop.first)
    name = type(loop.schedulers[0]).__name__
    solver = UsersScheduler(name, packing, multistep, loop.stochastic, evaluator)
    nothing: Any = None  # what a walk of the user's scheduler has no use for
    fine = LoopWalk(cast(Any, solver), grid, nothing, nothing, torch.stack([x, *past]))
    coarse = Propagator(DDIM(), grid.coarsened(1), nothing, nothing)
    enough = method.enough_iterations(grid)
    problem = LoopProblem(
        noise=fine.first[0],
        fine=fine,
        coarse=coarse,
        coarse_network=0,
        max_iterations=min(method.max_iterations or enough, enough),
        stop_rule=StopRule(method.tolerance, (-1.0, 1.0), fine.complete_from()),
        ranks=ranks,
        tolerance=method.tolerance,
        columns=method.columns(grid),
        kind="epsilon",
        output_shape=(evaluator.width,),
    )
    method.check(problem)
    return Plan(problem, [cast(Any, evaluator)], method, 1, nothing)


def _places(loop: PipelineLoop, method: Method) -> tuple[Place, ...]:
    """Return the places of bodies 1 .. N - 1, and the one at the end."""
    levels = [body.here for body in loop.bodies[1:]] + [loop.bodies[-1].there]
    if None in levels:
        if method.iterates:
            raise InputError(
                f"`method` {method.name} needs noise levels, and the scheduler "
                f"{type(loop.schedulers[0]).__name__} tells none: take another scheduler, or the "
                "method sequential"
            )
        levels = [Coefficients(1.0, float(len(levels) - i)) for i in range(len(levels))]
    places = [Place.at(i, level) for i, level in enumerate(levels, start=1) if level is not None]
    return tuple(places)


def _bounds(
    loop: PipelineLoop, places: tuple[Place, ...], method: Method, ranks: int
) -> tuple[int, ...]:
    """Return the slice boundaries; slices with coarse solves begin where a scheduler can begin."""
    bounds = slice_bounds(places, None, method, ranks)
    if not method.uses_coarse:
        return bounds
    steps = range(len(places) - 1)
    can = [i for i in steps if i > 0 and loop.can_begin(i + 1)]
    inner = {min(can, key=lambda i: abs(i - bound)) for bound in bounds[1:-1] if can}
    if len(inner) < len(bounds) - 2:
        raise InputError(
            f"`slices` is {len(bounds) - 1}, but the scheduler {type(loop.schedulers[0]).__name__} "
            f"can begin at {len(can)} of {len(steps)} steps only: take fewer `slices`, or the "
            "method window"
        )
    return (0, *sorted(inner), len(steps))


def refuse_unlike(loop: PipelineLoop, world: World) -> None:
    """Refuse a run whose ranks have other pipelines, arguments or kernels.

    The state after body 0 is a function of all of them.

    Raises
    ------
    InputError
        On every rank, naming the first rank that differs from rank 0.
    """
    forms = [(body.networks, body.here, body.there) for body in loop.bodies]
    scheduler = loop.schedulers[0]
    config = {name: one for name, one in scheduler.config.items() if not name.startswith("_")}
    told = hashlib.sha256(repr((forms, type(scheduler).__name__, config)).encode())
    state = hashlib.sha256()
    for one in loop.first.tensors:
        state.update(one.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for one in loop.bodies[-1].random:
        state.update(one.numpy().tobytes())
    seen = world.gather((told.hexdigest(), precision(), state.hexdigest(), world.host))
    whys = (
        "another scheduler, other steps or other networks",
        "other settings of torch",
        "other weights, arguments, generators or kernels: its first step has other bits",
    )
    for rank, theirs in enumerate(seen):
        for at, why in enumerate(whys):
            if theirs[at] != seen[0][at]:
                raise InputError(f"`pipe`: rank {rank} on {theirs[-1]} has {why} than rank 0")
