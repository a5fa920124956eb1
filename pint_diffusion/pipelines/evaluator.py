"""The network call of a pipeline: one body of its loop."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import torch
from torch import Tensor

from pint_diffusion.errors import NetworkError, NetworkRaisedError
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.pipelines.levels import Memory, Place, seen_by
from pint_diffusion.pipelines.loop import PipelineLoop
from pint_diffusion.pipelines.packing import Packing
from pint_diffusion.pipelines.state import State
from pint_diffusion.runtime.requests import EvaluateRequest


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
        self._newest: tuple[Tensor, State] | None = None

    def __call__(self, requests: Sequence[EvaluateRequest]) -> list[Prediction]:
        """Run a body for each request; the output is the state after it, and eps, (S, (2 + H) D).

        Raises
        ------
        NetworkError
            If a network returns NaN or infinity.
        NetworkRaisedError
            If the body raises anything.
        """
        return [self._run(request) for request in requests]

    def check(self) -> float:
        """Return 0: a body is looked at when it is run."""
        return 0.0

    def live(self, output: Tensor) -> State | None:
        """Return the state after the newest body, if this is its output."""
        if self._newest is None or self._newest[0] is not output:
            return None
        return self._newest[1]

    def _run(self, request: EvaluateRequest) -> Prediction:
        place, ask = request.levels[0], request.ask
        assert isinstance(place, Place)
        where = ask.place or f"slice {ask.n}, iteration {ask.k}"
        try:
            after = self.loop.body(place.body, self._before(place, request.x))
        except (Exception, SystemExit) as error:
            raise NetworkRaisedError(
                f"the pipeline failed at {where}, step {place.body}:\n{traceback.format_exc()}"
            ) from error
        told = [
            seen_by(scheduler, seen.model_output, seen.sample, place)
            for scheduler, seen in zip(self.loop.schedulers, self.loop.seen, strict=True)
        ]
        x0, eps = (self.packing.beside(parts) for parts in zip(*told, strict=True))
        if not bool(torch.isfinite(eps).all()):
            raise NetworkError(f"a network returned NaN or infinity at {where}, step {place.body}")
        x, past = self.packing.pack(after)
        output = torch.cat([x, *past, eps], dim=1)
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
