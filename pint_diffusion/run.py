"""From a plan to an answer: the method on a runtime, no files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import TransportError
from pint_diffusion.methods import METHODS
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.requests import Ask, Clock
from pint_diffusion.runtime.scheduler import Decided, Record, Runtime
from pint_diffusion.runtime.world import LocalWorld, OnSilence, World

Watch = Callable[[int, int, Tensor | None], bool | None]


@dataclass(frozen=True)
class Solution:
    """What rank 0 knows when the iteration has ended.

    Attributes
    ----------
    outcome : Outcome
        Iterations and convergence.
    clock : Clock
        Length of the longest chain behind the answer, in evaluations and in network calls.
    wall_time : float
        Seconds from the ranks' common start to the answer.
    """

    outcome: Outcome
    clock: Clock
    wall_time: float


def solve(
    plan: Plan,
    world: World,
    events: EventLog,
    record: Record,
    watch: Watch,
    interrupted: Callable[[], bool] = lambda: False,
    on_silence: OnSilence | None = None,
    decided: Decided = lambda k, write: None,
) -> Solution | None:
    """Run a plan's method together with the other ranks; rank 0 gets the solution.

    Parameters
    ----------
    plan : Plan
        The same on every rank but for the device.
    world : World
        Its communicator moves the messages.
    events : EventLog
        Is told what happened when; its clock is set to 0 at the ranks' common start.
    record : callable
        Takes (n, k, state) of every boundary state u_n^k, (1 + H, S, *shape), that this rank keeps:
        the start states of its slices, and on rank 0 the last one, n = M. None: as in iteration
        k - 1.
    watch : callable
        Takes (n, k, change) on rank 0, see `Problem.watch`. If it returns whether to write
        iteration k, every rank's ``decided`` is told.
    interrupted : callable
        Tells whether somebody asked this rank to end the run.
    on_silence : callable
        Is told that another rank has fallen silent, see `World.transport`.
    decided : callable
        Takes (k, write) on every rank.

    Raises
    ------
    Interrupted
        If some rank was asked to end.
    NetworkError
        If the network returns NaN or the wrong shape on this rank.
    PeerFailure
        If another rank failed.
    TransportError
        If messages can no longer be moved, or if another rank has fallen silent.
    """
    world.barrier()
    try:
        device = plan.evaluators[0].device
        transport = world.transport(events, device, plan.patience, on_silence)
        runtime = Runtime(
            world.rank,
            world.size,
            plan.evaluators,
            transport,
            events,
            plan.batch_limit,
            record,
            interrupted,
            decided,
        )

        def watch_and_tell(n: int, k: int, change: Tensor | None) -> None:
            if (write := watch(n, k, change)) is not None:
                runtime.decide(k, write)

        method, problem = plan.method, dataclasses.replace(plan.problem, watch=watch_and_tell)
        method.start(runtime, problem, **method.options)
    except Exception as error:  # the other ranks have begun and can't be told
        raise TransportError(f"the run could not begin: {error!r}") from error
    runtime.run()
    if runtime.outcome is None:
        return None
    return Solution(runtime.outcome, runtime.clock, runtime.finished_at)


def warm_up(plan: Plan) -> None:
    """Make one network call that nobody counts, so that the first counted one is not slower."""
    problem = plan.problem
    for network, evaluator in enumerate(plan.evaluators):
        evaluator([Ask("fine", 0, 0, network)(problem.noise, problem.grid.levels[0])])


def solve_sequentially(
    plan: Plan, interrupted: Callable[[], bool] = lambda: False
) -> tuple[Tensor, float]:
    """Run the sequential sampler in this process alone.

    Returns
    -------
    samples : Tensor, shape (S, *shape)
    wall_time : float
        Seconds.

    Raises
    ------
    Interrupted
        If it was asked to end.
    """
    states: dict[int, Tensor | None] = {}
    problem = dataclasses.replace(plan.problem, ranks=1, restart=None)
    alone = dataclasses.replace(plan, method=METHODS["sequential"], problem=problem)
    solution = solve(
        alone,
        LocalWorld(),
        EventLog(0),
        lambda n, k, x: states.update({n: x}),
        lambda n, k, change: None,
        interrupted,
    )
    answer = states[problem.grid.slices]
    assert solution is not None
    assert answer is not None
    return answer[0], solution.wall_time
