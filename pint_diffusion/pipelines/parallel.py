"""The door for pipelines: an object that is called like the pipeline, on many ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pint_diffusion.errors import InputError
from pint_diffusion.methods import Method, Sequential, Window
from pint_diffusion.pipelines.loop import PipelineLoop
from pint_diffusion.pipelines.plan import plan_of, refuse_unlike
from pint_diffusion.pipelines.refusals import check_call, check_pipeline, refusal
from pint_diffusion.pipelines.state import State
from pint_diffusion.result import Run
from pint_diffusion.run import SILENCE, solve
from pint_diffusion.runtime.limits import Limits
from pint_diffusion.runtime.world import Communicator, World, world_of


@dataclass(frozen=True)
class Report:
    """What a call took.

    Attributes
    ----------
    steps : int
        N: turns of the pipeline's loop.
    rounds : int
        Iterations of the method.
    bodies : int
        Turns that were made on all ranks, the first one on each of them.
    bodies_deep : int
        The longest chain of turns behind the answer, the first one included.
    seconds : float
        Wall time of the loop, from the ranks' common start to the last state.
    seconds_of_body : float
        Mean time of a turn.
    error : float or None
        Largest difference of the last state from the sequential one, relative to its largest value;
        on rank 0, where ``verify`` asked for it.
    sequential_seconds : float or None
        Wall time of the sequential loop, where ``verify`` asked for it.
    run : Run or None
        The run itself; None if there was one turn only.
    """

    steps: int
    rounds: int = 0
    bodies: int = 1
    bodies_deep: int = 1
    seconds: float = 0.0
    seconds_of_body: float = 0.0
    error: float | None = None
    sequential_seconds: float | None = None
    run: Run | None = None

    @property
    def predicted_speedup(self) -> float:
        """Turns of the sequential loop over those one after another."""
        return self.steps / self.bodies_deep

    @property
    def speedup(self) -> float | None:
        """Seconds of the sequential loop over the seconds of this one, where both are known."""
        return self.sequential_seconds and self.sequential_seconds / self.seconds


class Parallel:
    """A pipeline in parallel; call it like the pipeline. See `parallelize`.

    Attributes
    ----------
    pipe : DiffusionPipeline
        The user's own.
    report : Report or None
        Of the last call.
    """

    def __init__(
        self,
        pipe: Any,
        method: Method,
        world: World,
        result: Literal["all", "root"],
        verify: bool | Literal["first"],
        watchdog: float | None,
    ) -> None:
        self.pipe, self.method = pipe, method
        self.report: Report | None = None
        self._world, self._result = world, result
        self._verify, self._watchdog = verify, watchdog

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline; return what it returns.

        Raises
        ------
        InputError
            On every rank, if the pipeline or its arguments can't be used.
        """
        world = self._world
        check_call(self.pipe, kwargs)
        with _generators_of_rank_0(world):
            loop = world.agree(lambda: PipelineLoop(self.pipe, *args, **kwargs))
        with loop:
            refuse_unlike(loop, world)
            if self._verify == "first":
                world.agree(lambda: self._check(loop))
            state = self._sample(loop)
            if self._result == "root" and world.rank > 0:
                loop.leave()
                return None
            return loop.finish(state)

    def _sample(self, loop: PipelineLoop) -> State:
        """Find the state after the last body."""
        world = self._world
        if loop.steps == 1:
            self.report = Report(1)
            return loop.first
        method = self.method if loop.steps > 2 else Sequential(slices=1)
        plan = world.agree(lambda: plan_of(loop, method, world.size))
        run = solve(plan, world, (), self._verify is True, Limits(self._watchdog, "auto"))
        answer = world.share(None if run.samples is None else run.samples.cpu())
        assert answer is not None
        error = None
        if run.sequential is not None:
            wanted, found = run.sequential[0].cpu(), answer[0]
            error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        self.report = Report(
            loop.steps,
            run.iterations,
            world.size + run.evaluations + run.evaluations_wasted,
            1 + run.evaluations_deep,
            run.wall_time,
            run.evaluation_time,
            error,
            run.sequential_wall_time,
            run,
        )
        x, *past = answer.to(loop.first.tensors[0].device).unbind()
        evaluator: Any = plan.evaluators[0]
        unpacked: State = evaluator.packing.unpack(loop.bodies[-1].after, x, tuple(past))
        return unpacked

    def _check(self, loop: PipelineLoop) -> None:
        differs = loop.differing()
        if differs is not None:
            raise refusal(
                self.pipe,
                f"step {differs} is another one after a jump, so it keeps more from step to step "
                "than its scheduler does",
            )

    def close(self) -> None:
        """Nothing is held between calls."""

    def __enter__(self) -> Parallel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def parallelize(
    pipe: Any,
    *,
    method: Method | None = None,
    tolerance: float | None = None,
    comm: Communicator = "auto",
    result: Literal["all", "root"] = "all",
    verify: bool | Literal["first"] = False,
    watchdog: float | None = SILENCE,
) -> Parallel:
    """Return an object that is called like a pipeline of diffusers, and runs it parallel in time.

    Every rank makes its own pipeline, and calls the object with the same arguments.

    Parameters
    ----------
    pipe : DiffusionPipeline
        This rank's pipeline. It is not changed.
    method : Method, optional
        How it is sampled; `Window` if not given.
    tolerance : float, optional
        That of the method, if it shall have another one. With 0 the answer is the pipeline's own.
    comm : MPI communicator, "auto" or None
        The ranks, see `sample`.
    result : {"all", "root"}
        Whether every rank gets what the pipeline returns, or rank 0 alone and the others None.
    verify : bool or "first"
        Run the sequential loop too, for `Report.error`; or check the first three steps of each call
        by jumps, and refuse the pipeline if they differ.
    watchdog : float, optional
        Seconds of silence after which another rank is taken for lost; None: never.

    Raises
    ------
    InputError
        If an argument can't be used.
    """
    if method is not None and not isinstance(method, Method):
        raise InputError(f"`method` is {method!r}, which is no Method")
    if result not in ("all", "root"):
        raise InputError(f"`result` is {result!r}, but must be 'all' or 'root'")
    chosen = method or Window()
    if tolerance is not None:
        options = {name: getattr(chosen, name) for name in chosen.changed}
        chosen = type(chosen)(**{**options, "tolerance": tolerance})
    check_pipeline(pipe)
    return Parallel(pipe, chosen, world_of(comm), result, verify, watchdog)


@contextmanager
def _generators_of_rank_0(world: World) -> Iterator[None]:
    """Let the global generators be those of rank 0 meanwhile."""
    own = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    states = world.share((own, on_gpu))
    torch.set_rng_state(states[0])
    if on_gpu is not None and states[1] is not None:
        torch.cuda.set_rng_state(states[1])
    try:
        yield
    finally:
        torch.set_rng_state(own)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
