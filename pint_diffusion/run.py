"""From a plan to a result: the method on a runtime, its outputs, and one end on all ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TypeAlias

from torch import Tensor

from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import (
    Interrupted,
    PeerFailure,
    PintError,
    RunFailed,
    TransportError,
)
from pint_diffusion.methods import Sequential
from pint_diffusion.methods.problem import Restart
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.output import Ended, Output, Outputs, Watch
from pint_diffusion.result import Run
from pint_diffusion.runtime.calls import Calls
from pint_diffusion.runtime.events import EventLog, Tally
from pint_diffusion.runtime.process import seconds_since_start
from pint_diffusion.runtime.requests import Ask, Clock, Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.runtime.world import LocalWorld, World

SILENCE = 10.0
"""Seconds of silence after which another rank is taken for lost, or twice its longest call."""

Turns: TypeAlias = Generator[tuple[int, Tensor], "bool | None", "Run"]
"""A run under way: yields answers as `Runtime.run` does, and returns the result."""


def solve(
    plan: Plan,
    world: World,
    outputs: Iterable[Output | Watch] = (),
    verify: bool = False,
    patience: float | None = SILENCE,
) -> Run:
    """Run a plan together with the other ranks, to its end.

    Parameters
    ----------
    plan : Plan
        The same on every rank but for the device.
    world : World
        The ranks; all of them make this call.
    outputs : iterable of Output or callable
        Are told what happens, on every rank.
    verify : bool
        Run the sequential sampler on rank 0 afterwards.
    patience : float or None
        Seconds of silence after which another rank is taken for lost, and TransportError is raised;
        None: never.

    Raises
    ------
    RunFailed
        On every rank, if one of them failed; its cause, on that rank, is what it raised.
    Interrupted
        On every rank, if one of them was asked to end before the answer was there.
    StoreError, InputError
        On every rank, if an output could not be opened or closed.
    TransportError
        If the ranks can no longer agree on how to end, or if one of them has fallen silent.
    """
    turns = begin(plan, world, outputs, verify, patience)
    while True:
        try:
            next(turns)
        except StopIteration as stop:
            run: Run = stop.value
            return run


def begin(
    plan: Plan,
    world: World,
    outputs: Iterable[Output | Watch] = (),
    verify: bool = False,
    patience: float | None = SILENCE,
    everywhere: bool = False,
) -> Turns:
    """Run a plan as `solve` does, answer by answer: rank 0 gets each as soon as it is there.

    Parameters
    ----------
    plan, world, outputs, verify, patience
        See `solve`.
    everywhere : bool
        Every rank gets the answers.
    """
    told = Outputs(outputs)
    events = EventLog(world.rank)
    try:
        with together(world, agreed=True):
            restart = told.open(plan, world, events)
        if restart is not None:
            plan = resumed(plan, restart)
        run = yield from _iterate(plan, world, told, events, verify, patience, everywhere)
    except BaseException as error:
        _close_failed(told, error)
        raise
    with together(world, agreed=True):
        told.close(Ended("finished" if run.converged else "not converged", run))
    return run


def resumed(plan: Plan, restart: Restart) -> Plan:
    """Return a plan that begins at an iteration of an earlier run."""
    return dataclasses.replace(plan, problem=dataclasses.replace(plan.problem, restart=restart))


def _iterate(
    plan: Plan,
    world: World,
    outputs: Outputs,
    events: EventLog,
    verify: bool,
    patience: float | None,
    everywhere: bool,
) -> Turns:
    """Run the method and count what it took; fail alike on every rank."""
    answer: Tensor | None = None
    found: tuple[Outcome, Clock, float] | None = None
    sequential: tuple[Tensor, float] | None = None
    interrupted: str | None = None
    with together(world):
        try:
            runtime = _start(plan, world, outputs, events, patience, everywhere)
            stop = None
            with contextlib.closing(runtime.run()) as answers, contextlib.suppress(StopIteration):
                while True:
                    k, answer = answers.send(stop)
                    stop = yield k, answer
            if runtime.outcome is not None:
                found = runtime.outcome, runtime.clock, runtime.finished_at
                sequential = _verify(plan, outputs) if verify else None
        except Interrupted as error:
            interrupted = str(error)
    told = [text for text in world.gather(interrupted) if text]
    solution = world.share(found)
    if solution is None:
        raise Interrupted(told[0])
    outcome, clock, wall_time = solution
    begun = seconds_since_start() - events.now()
    tallies, starts = zip(*world.gather((Tally.of(events, outcome.iterations), begun)), strict=True)
    calls = sum(tally.calls for tally in tallies)
    return Run(
        samples=answer,
        outcome=outcome,
        evaluations=sum(tally.evaluations for tally in tallies),
        evaluations_wasted=sum(tally.wasted for tally in tallies),
        evaluations_deep=clock.deep,
        calls_deep=clock.calls,
        network_calls=calls,
        evaluation_time=sum(tally.evaluating for tally in tallies) / max(calls, 1),
        wall_time=wall_time,
        start_up_time=max(starts),
        events=events.table(),
        sent_bytes=events.sent_bytes,
        sequential=sequential[0] if sequential else None,
        sequential_wall_time=sequential[1] if sequential else None,
    )


def _start(
    plan: Plan,
    world: World,
    outputs: Outputs,
    events: EventLog,
    patience: float | None,
    everywhere: bool,
) -> Runtime:
    """Start the clock on all ranks at once, and the coroutines of this one."""
    problem = plan.problem
    start = plan.method.prepare(problem)
    world.barrier()
    try:
        device = plan.evaluators[0].device
        transport = world.transport(events, device, patience, outputs.lost)
        shown = Layout(tuple(problem.noise.shape), problem.noise.dtype, problem.noise.device)
        runtime = Runtime(
            world.rank,
            world.size,
            Calls(plan.evaluators, events, plan.batch_limit),
            transport,
            events,
            outputs,
            shown if everywhere else None,
        )
        start(runtime)
    except Exception as error:
        if world.size == 1:
            raise
        # the other ranks have begun and can't be told
        raise TransportError(f"the run could not begin: {error!r}") from error
    return runtime


@contextlib.contextmanager
def together(world: World, agreed: bool = False) -> Iterator[None]:
    """Let every rank do something, and all of them fail if one does.

    Parameters
    ----------
    world : World
        The ranks.
    agreed : bool
        If all ranks have raised the same, they have agreed on it already: each raises its own.

    Raises
    ------
    RunFailed
        On every rank, with the cause of the first one that failed.
    TransportError
        If the ranks can't agree.
    """
    error: BaseException | None = None
    try:
        yield
    except TransportError:
        raise
    except BaseException as caught:
        error = caught
    world.barrier()
    told = world.gather((world.host, _told(error)))
    if error is not None and (not isinstance(error, Exception) or (agreed and _same(told))):
        raise error
    for rank, (host, failure) in enumerate(told):
        if failure is not None:
            message, code = failure
            raise RunFailed(f"rank {rank} on {host}: {message}", code) from error


def _told(error: BaseException | None) -> tuple[str, int] | None:
    """What to tell the other ranks of an error: a sentence and an exit code."""
    if error is None or isinstance(error, PeerFailure):  # that rank says why
        return None
    if isinstance(error, PintError):
        return str(error), error.exit_code
    return "\n" + "".join(traceback.format_exception(error)), 1


def _same(told: Sequence[tuple[str, tuple[str, int] | None]]) -> bool:
    return all(failure is not None and failure == told[0][1] for _, failure in told)


def _close_failed(outputs: Outputs, error: BaseException) -> None:
    """Tell the outputs why there is no result; what they raise then is one reason too many."""
    status = "interrupted" if isinstance(error, Interrupted) else f"failed: {error or repr(error)}"
    agreed = not isinstance(error, TransportError)
    with contextlib.suppress(Exception):
        if not agreed:
            outputs.lost(str(error))
        outputs.close(Ended(status, agreed=agreed))


def warm_up(plan: Plan) -> None:
    """Make one network call that nobody counts, so that the first counted one is not slower."""
    problem = plan.problem
    for network, evaluator in enumerate(plan.evaluators):
        evaluator([Ask("fine", 0, 0, network)(problem.noise, problem.grid.levels[0])])


def solve_sequentially(plan: Plan, outputs: Iterable[Output | Watch] = ()) -> Run:
    """Run the sequential sampler of a plan in this process alone.

    Raises
    ------
    Interrupted
        If an output ends it.
    """
    problem = dataclasses.replace(plan.problem, ranks=1, restart=None)
    alone = dataclasses.replace(plan, method=Sequential(), problem=problem)
    return solve(alone, LocalWorld(), outputs)


class _Checks(Output):
    """Ends a run when the outputs of another one would have ended that."""

    def __init__(self, outputs: Output) -> None:
        self._outputs = outputs

    def check(self) -> None:
        self._outputs.check()


def _verify(plan: Plan, outputs: Outputs) -> tuple[Tensor, float] | None:
    """Run the sequential sampler; the answer is there, so an interruption ends no more than this.

    Returns samples (S, *shape) and seconds; None if there was no time for it.
    """
    try:
        run = solve_sequentially(plan, [_Checks(outputs)])
    except Interrupted:
        return None
    except RunFailed as failed:
        raise failed.__cause__ or failed from None
    assert run.samples is not None
    return run.samples, run.wall_time
