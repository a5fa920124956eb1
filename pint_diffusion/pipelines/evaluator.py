"""The network call of a pipeline: one body of its loop."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import torch
from torch import Tensor

from pint_diffusion.errors import NetworkError, NetworkRaisedError
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.pipelines.levels import Linear, Memory, Place, seen_by
from pint_diffusion.pipelines.loop import PipelineLoop
from pint_diffusion.pipelines.packing import Packing
from pint_diffusion.pipelines.state import State
from pint_diffusion.runtime.pace import Pace
from pint_diffusion.runtime.requests import EvaluateRequest
from pint_diffusion.solvers.solver import Past


class LoopEvaluator:
    """Runs bodies of a loop where an `Evaluator` calls a network, one for each request.

    Parameters
    ----------
    loop : PipelineLoop
        The loop.
    packing : Packing
        Layout of its states.
    multistep : bool
        A body that begins without history begins as a first step.
    """

    late = False

    def __init__(self, loop: PipelineLoop, packing: Packing, multistep: bool) -> None:
        self.loop, self.packing, self.multistep = loop, packing, multistep
        self.device = loop.first.tensors[0].device
        self.pace = Pace()
        self.said = [seen.model_output for seen in loop.seen]
        self.samples = [seen.sample for seen in loop.seen]
        told = sum(one.numel() for one in self.said) // packing.rows
        self.width = (2 + packing.history) * packing.width + told
        self._newest: tuple[Tensor, State] | None = None
        self._known: dict[int, list[Linear]] = {}

    def start(self, requests: Sequence[EvaluateRequest]) -> list[Prediction]:
        """Run a body for each request.

        The output has, side by side, the state after the body, eps, and what the scheduler was
        told, (S, (2 + H) D + D').

        Raises
        ------
        NetworkError
            If a network returns NaN or infinity.
        NetworkRaisedError
            If the body raises anything.
        """
        return [self._run(request) for request in requests]

    def look(self) -> tuple[float, dict[int, NetworkError]]:
        """Find nothing: a body is looked at when it is run."""
        return 0.0, {}

    def live(self, output: Tensor) -> State | None:
        """Return the state after the newest body, if this is its output."""
        if self._newest is None or self._newest[0] is not output:
            return None
        return self._newest[1]

    def imagined(self, place: Place, x: Tensor, past: Past, eps: Tensor) -> tuple[Tensor, Past]:
        """Make the scheduler's step of a body, as if eps (S, D) had been seen in x (S, D)."""
        given = (self.packing.apart(one, self.samples, keep=True) for one in (x, eps))
        parts = zip(self._linear(place), *given, strict=True)
        return self._step(place, x, past, [linear.output(*seen) for linear, *seen in parts])

    def again(
        self, place: Place, x: Tensor, past: Past, said: Tensor, move: Tensor, kappa: Tensor
    ) -> tuple[Tensor, Past]:
        """Make the scheduler's step of a body again, from a state that has moved.

        Parameters
        ----------
        place : Place
            Of the body.
        x, past : Tensor, shape (S, D)
            The state that it begins with.
        said : Tensor, shape (S, D')
            What the scheduler was told in the state that was evaluated.
        move : Tensor, shape (S, D)
            By how much x has moved since.
        kappa : Tensor, shape (S,)
            Slope with which eps follows.
        """
        moves = self.packing.apart(move, self.samples, keep=True)
        known = self.packing.apart(said, self.said, keep=True)
        parts = zip(self._linear(place), known, moves, strict=True)
        told = [moved(output, linear.slope(kappa), move) for linear, output, move in parts]
        return self._step(place, x, past, told)

    def _step(
        self, place: Place, x: Tensor, past: Past, told: Sequence[Tensor]
    ) -> tuple[Tensor, Past]:
        state = self.packing.unpack(self.loop.bodies[place.body - 1].after, x, past)
        outputs = [whole(one, like) for one, like in zip(told, self.said, strict=True)]
        return self.packing.pack(self.loop.replay(place.body, state, outputs))

    def _linear(self, place: Place) -> list[Linear]:
        if place.body not in self._known:
            self._known[place.body] = [Linear.at(one, place) for one in self.loop.schedulers]
        return self._known[place.body]

    def _run(self, request: EvaluateRequest) -> Prediction:
        place, ask = request.levels[0], request.ask
        assert isinstance(place, Place)
        where = f"{ask.place or f'slice {ask.n}, iteration {ask.k}'}, step {place.body}"
        self.pace.begin(len(request.x), lambda: where)
        try:
            after = self.loop.body(place.body, self._before(place, request.x))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise NetworkRaisedError(
                f"the pipeline failed at {where}:\n{traceback.format_exc()}"
            ) from error
        finally:
            self.pace.end()
        told = [
            seen_by(scheduler, seen.model_output, seen.sample, place)
            for scheduler, seen in zip(self.loop.schedulers, self.loop.seen, strict=True)
        ]
        x0, eps = (self.packing.beside(parts) for parts in zip(*told, strict=True))
        if not bool(torch.isfinite(eps).all()):
            raise NetworkError(f"a network returned NaN or infinity at {where}")
        x, past = self.packing.pack(after)
        said = self.packing.beside([seen.model_output for seen in self.loop.seen])
        output = torch.cat([x, *past, eps, said], dim=1)
        self._newest = output, after
        return Prediction(x0, eps, None, output)

    def _before(self, place: Place, x: Tensor) -> State:
        """Return the state that a body begins with."""
        past = place.past
        if isinstance(past, Memory) and past.state is not None:
            return past.state
        fresh = self.multistep and not past
        form = self.loop.beginning(place.body) if fresh else self.loop.bodies[place.body - 1].after
        return self.packing.unpack(form, x, past)


def moved(output: Tensor, slope: Tensor, move: Tensor) -> Tensor:
    """Return what a scheduler is told in a state that has moved; of a variance it is told the same.

    Where nothing has moved it is the output to the bit.
    """
    by = slope.to(move.dtype).view(-1, *[1] * (move.ndim - 1)) * move
    if output.shape == move.shape:
        return output + by
    return torch.cat([output[:, : move.shape[1]] + by, output[:, move.shape[1] :]], dim=1)


def whole(output: Tensor, like: Tensor) -> Tensor:
    """Return an output in the dtype and the shape of another, with zeros for a variance."""
    if output.shape != like.shape:
        output = torch.cat([output, torch.zeros_like(output)], dim=1)
    return output.to(like.dtype)
