"""The denoising loop of any diffusers pipeline as a function ``body(i, state) -> state``.

The pipeline's own ``__call__`` runs, in a coroutine of its own, with stand-ins for its networks and
its scheduler, and with an ``enumerate`` that yields the numbers that we ask for. Between two turns
of the loop it sleeps.

A state is what `scheduler.step` returned, and what the scheduler remembers. A jump to body i runs
body i - 1 as a dummy: its networks return zeros, its steps return the state, and the scheduler and
the generators are brought to where they were. So all that a pipeline does after a step, such as
blends with a mask, casts and lookups by i, is its own.
"""

from __future__ import annotations

import builtins
import contextvars
import copy
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import greenlet
import torch
from torch import Tensor

from pint_diffusion.pipelines.levels import coefficients
from pint_diffusion.pipelines.randomness import Randomness
from pint_diffusion.pipelines.refusals import check_pipeline, check_place, refusal
from pint_diffusion.pipelines.standins import (
    Called,
    Network,
    is_part,
    is_scheduler,
    own_call,
    scheduler_like,
)
from pint_diffusion.pipelines.state import Changes, State, can_begin, read, unplain, write
from pint_diffusion.pipelines.trees import copied, hollow, leaves, outline, zeros
from pint_diffusion.pipelines.visit import Arguments, Body, Seen, Turns, Visit

POSITION = frozenset({"_step_index"})
"""Attributes by which a scheduler knows where it is."""


class Ending(NamedTuple):
    """What a pipeline has returned."""

    output: Any


class PipelineLoop:
    """The loop of one call of a pipeline.

    It makes body 0 for real, and walks through all others once without evaluating a network: from
    this N is known, and what each body does. After that, bodies can be made in any order.

    Parameters
    ----------
    pipe : DiffusionPipeline
        It is not changed, and neither are its components.
    *args, **kwargs
        Of the call.

    Attributes
    ----------
    bodies : list of Body
        The N bodies.
    schedulers : tuple of object
        The scheduler of each step of a body: copies of the pipeline's own.
    seen : tuple of Seen
        What the steps of the last body were given.
    evaluations, extra : int
        Network calls made so far in the loop, and those among them of which only a shape was asked.

    Raises
    ------
    InputError
        If the pipeline has no loop that can be walked in any order.
    """

    def __init__(self, pipe: Any, *args: Any, **kwargs: Any) -> None:
        check_pipeline(pipe)
        self.evaluations = self.extra = 0
        self.bodies: list[Body] = []
        self.schedulers: tuple[Any, ...] = ()
        self.seen: tuple[Seen, ...] = ()
        self._user = pipe
        self._shapes: dict[Any, Any] = {}
        self._schedulers: list[Any] = []
        self._changes: list[Changes] = []
        self._timesteps: Tensor | None = None
        self._visit: Visit | None = None
        self._newest: State | None = None
        self._pipe = self._copy_of(pipe)
        bound = inspect.signature(type(pipe).__call__).bind(self._pipe, *args, **kwargs)
        given = bound.arguments.get("generator")
        self.random = Randomness(given, pipe._execution_device)
        if given is not None:
            bound.arguments["generator"] = self.random.replaced(given)
        self._call = own_call(pipe, self._enumerate)
        self._walker = greenlet.greenlet(lambda: Ending(self._call(*bound.args, **bound.kwargs)))
        self._walker.gr_context = contextvars.copy_context()
        try:
            self._walk()
        except BaseException:
            self.close()
            raise

    @property
    def steps(self) -> int:
        """N."""
        return len(self.bodies)

    @property
    def first(self) -> State:
        """State after body 0."""
        return self.bodies[0].after

    @property
    def remembers(self) -> bool:
        """Whether a scheduler remembers something of the samples from step to step."""
        return any(one.ndim > 1 for body in self.bodies for one in leaves(body.after.attributes))

    @property
    def stochastic(self) -> bool:
        """Whether steps draw from a generator."""
        first, last = self.bodies[0].random, self.bodies[-1].random
        return not all(map(torch.equal, first, last))

    def can_begin(self, i: int) -> bool:
        """Return whether every scheduler can begin at body ``i``; see `beginning`."""
        attributes = self.bodies[i - 1].after.attributes
        return all(can_begin(*of, i) for of in zip(self.schedulers, attributes, strict=True))

    def beginning(self, i: int) -> State:
        """Return the form of a state with which body ``i`` begins as a first step does.

        The scheduler remembers nothing of earlier steps, but for where it is.
        """
        after = self.bodies[i - 1].after
        attributes = (
            {**changes.filled({}), **{name: one[name] for name in one.keys() & POSITION}}
            for changes, one in zip(self._changes, after.attributes, strict=True)
        )
        return State(after.returned, tuple(attributes))

    # ---- what the driver does ----------------------------------------------------------------

    def body(self, i: int, state: State) -> State:
        """Run body ``i``, 1 <= i < N, from the state after body ``i - 1``.

        The state may have been made in another process; it is not changed.
        """
        self._come_to(i, state)
        return self._made(Visit(i))

    def replay(self, i: int, state: State, said: Sequence[Tensor]) -> State:
        """Make the steps of body ``i`` from a state, with outputs that are known.

        Parameters
        ----------
        i : int
            Number of the body.
        state : State
            After body i - 1.
        said : sequence of Tensor
            For each step what it takes the networks to have said, guidance included.
        """
        self._come_to(i, state)
        return self._made(Visit(i, dummy=True, said=said))

    def finish(self, state: State) -> Any:
        """Return what the pipeline makes of the state after the last body, and end its call.

        The user's generators, and the global ones, stand where the call would have left them.
        """
        self._come_to(self.steps, state)
        ended = self._switch(None)
        assert ended is not None
        self.random.commit()
        return ended.output

    def leave(self) -> None:
        """End the call without an ending; all generators stand where its last step leaves them."""
        with self.random.inside():
            self.random.restore(self.bodies[-1].random)
        self.random.commit()
        self.close()

    def differing(self, count: int = 3) -> int | None:
        """Make the first bodies in order and then by jumps; return one that differs, or None."""
        states = [self.first]
        for i in range(1, min(count, self.steps)):
            states.append(self.body(i, states[-1]))
        for i in reversed(range(1, len(states))):
            again = self.body(i, states[i - 1])
            if not all(map(torch.equal, again.tensors, states[i].tensors)):
                return i
        return None

    def close(self) -> None:
        """End the pipeline's call where it is."""
        if self._walker:  # it has begun, and has not ended
            self._walker.throw()
            self._user.maybe_free_model_hooks()

    def __enter__(self) -> PipelineLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- how it is done ------------------------------------------------------------------------

    def _copy_of(self, pipe: Any) -> Any:
        """Return the pipeline with stand-ins."""
        new = copy.copy(pipe)
        own = new.__dict__ = dict(pipe.__dict__)  # setting an attribute would touch the config
        for name, component in pipe.components.items():
            if isinstance(component, torch.nn.Module):
                own[name] = Network(name, component, self._network)
            elif is_scheduler(component):
                own[name] = scheduler_like(component, self._step)
                self._schedulers.append(own[name])
            elif hasattr(component, "set_state"):  # a guider, which is told the number of the step
                own[name] = copy.deepcopy(component)
        bar = getattr(pipe, "_progress_bar_config", {})
        own["_progress_bar_config"] = {**bar, "disable": True}
        own["progress_bar"] = self._progress_bar
        return new

    def _walk(self) -> None:
        """Begin the call; make body 0, and all others as dummies whose steps are real."""
        self._switch(None)
        if self._timesteps is None:
            raise refusal(self._user, "it has no loop over the timesteps of its scheduler")
        visits = [Visit(i, dummy=i > 0) for i in range(len(self._timesteps))]
        for visit in visits:
            self._switch(visit)
            if len(visit.returned) != max(len(self._changes), 1):
                raise refusal(self._user, "not every turn of its loop makes the same steps")
        self.seen = tuple(visits[0].seen)
        for visit in visits:
            filled = map(Changes.filled, self._changes, visit.attributes)
            after = State(tuple(visit.returned), tuple(filled))
            if name := next(filter(None, map(unplain, after.attributes)), None):
                raise refusal(
                    self._user, f"its scheduler's `{name}` is no state that can be copied"
                )
            self.bodies.append(Body(tuple(visit.networks), after, visit.random, *visit.levels[0]))

    def _come_to(self, i: int, state: State) -> None:
        """Bring the loop to where body ``i`` begins."""
        if state is not self._newest:
            self._switch(Visit(i - 1, dummy=True, given=state))

    def _made(self, visit: Visit) -> State:
        self._switch(visit)
        self.seen, self._newest = tuple(visit.seen), visit.after
        return self._newest

    def _switch(self, visit: Visit | None) -> Ending | None:
        """Let the pipeline go on until it asks for the next body, or has ended."""
        self._newest, self._visit = None, visit
        self._walker.parent = greenlet.getcurrent()
        with torch.inference_mode(False), torch.no_grad(), self.random.inside():
            ended: Ending | None = self._walker.switch()
        self._visit = None
        return ended

    # ---- what the pipeline meets -----------------------------------------------------------------

    def _enumerate(self, items: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
        if isinstance(items, Turns):
            return items.numbered
        return self._turns(items) if self._is_walk(items) else builtins.enumerate(items, start)

    def _progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        if self._is_walk(iterable):
            return Turns(self._turns(iterable))
        return type(self._user).progress_bar(self._pipe, iterable, total)

    def _is_walk(self, items: Any) -> bool:
        return any(is_part(items, scheduler.timesteps) for scheduler in self._schedulers)

    def _turns(self, timesteps: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield number and timestep of the bodies that are asked for."""
        if self._timesteps is not None:
            raise refusal(self._user, "it walks through its timesteps more than once")
        frame = sys._getframe()
        while frame.f_code is not self._call.__code__ and frame.f_back is not None:
            frame = frame.f_back
        check_place(self._user, self._call, frame.f_lineno)
        self._timesteps = timesteps
        while True:
            greenlet.getcurrent().parent.switch()
            if self._visit is None:
                return
            yield self._visit.i, timesteps[self._visit.i]

    def _network(self, name: str, module: Any, args: Any, kwargs: Any) -> Any:
        visit = self._visit
        if visit is None:  # before the loop, or after it
            return module(*args, **kwargs)
        visit.networks.append(name)
        key = name, outline(args), outline(kwargs)
        if visit.dummy and key in self._shapes:
            return zeros(self._shapes[key])
        output = module(*args, **kwargs)
        self.evaluations += 1
        self.extra += visit.dummy
        self._shapes[key] = hollow(output)
        return output

    def _step(self, scheduler: Any, step: Called, args: Any, kwargs: Any) -> Any:
        visit = self._visit
        if visit is None:
            return step(*args, **kwargs)
        at = len(visit.returned)
        if visit.given is not None:
            given, body = visit.given, self.bodies[visit.i]
            visit.returned.append(None)
            write(scheduler, given.attributes[at])
            if at + 1 == len(given.returned):
                self.random.restore(body.random)
            return copied(given.returned[at])
        arguments = Arguments(step, args, kwargs)
        if visit.said is not None:
            arguments["model_output"] = copied(visit.said[at])
        visit.seen.append(arguments.seen)
        if at == len(self._changes):
            self._changes.append(Changes(scheduler))
            self.schedulers += (scheduler,)
        returned = step(*arguments.args, **arguments.kwargs)
        if not self.bodies:  # the walk that finds out what a body does
            self._changes[at].look(scheduler)
            visit.random = self.random.states()
            timestep = visit.seen[at].timestep
            visit.levels.append([coefficients(scheduler, timestep, ahead) for ahead in (0, 1)])
        visit.attributes.append(read(scheduler, self._changes[at].names))
        visit.returned.append(copied(returned))
        return returned
