"""The network call: requests in, one batched evaluation, predictions out."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from pint_diffusion.errors import NetworkError, NetworkRaisedError
from pint_diffusion.grid import Level, Schedule, TimeGrid
from pint_diffusion.models.denoiser import Denoiser, in_turn
from pint_diffusion.numerics.levels import Columns, LevelTable
from pint_diffusion.numerics.prediction import Prediction, network_input, network_time, predict
from pint_diffusion.runtime.requests import EvaluateRequest


class Evaluator:
    """Evaluates a denoiser for several requests in one call, each at its own noise level.

    Parameters
    ----------
    denoiser : Denoiser
        The network.
    grid : TimeGrid
        Names the step in error messages.
    device : torch.device
        Where the states live.
    dtype, state_dtype : torch.dtype
        What the network computes in, and what the states are kept in.
    schedule : Schedule, optional
        What this network was trained on, where the grid lies on another network's schedule:
        timesteps are looked up there by alpha_bar. A level noisier than its noisiest is told as
        its noisiest.

    Attributes
    ----------
    late : bool
        Whether calls are looked at late, see `check`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        grid: TimeGrid,
        device: torch.device,
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        schedule: Schedule | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.grid = grid
        self.device = device
        self.dtype = dtype
        self.state_dtype = state_dtype
        self.schedule = schedule
        self.late = device.type == "cuda"
        self._levels = LevelTable(self._time)
        self._fits: int | None = None
        self._open: _Open | None = None

    @torch.inference_mode()
    def __call__(self, requests: Sequence[EvaluateRequest]) -> list[Prediction]:
        """Make one network call and hand each request its rows, (S, *shape) each.

        A call that does not fit into the device's memory is made in parts.

        Raises
        ------
        NetworkError
            If the network returns the wrong shape, NaN or infinity.
        NetworkRaisedError
            If it raises anything, or wants to end the process.
        """
        self.check()
        x = torch.cat([r.x for r in requests]) if len(requests) > 1 else requests[0].x
        at = self._levels([level for request in requests for level in request.levels], x)
        clock = _Clock() if self.device.type == "cuda" else None
        try:
            output = self._output(requests, x, at)
        except (NetworkError, NetworkRaisedError):
            raise
        except (Exception, SystemExit) as error:
            raise NetworkRaisedError(
                f"the network failed at {self._place(requests[0])}:\n{traceback.format_exc()}"
            ) from error
        low, high = output.aminmax()  # NaN and infinity show in the extremes, which take one pass
        self._open = _Open(requests, output, high - low, clock and clock.stopped())
        if not self.late:
            self.check()
        output = output.to(self.state_dtype)
        seen = predict(self.denoiser.prediction, x, output, at.a, at.s)._replace(output=output)
        if len(requests) == 1:
            return [seen]
        sizes = [len(request.x) for request in requests]
        parts = [[None] * len(sizes) if part is None else part.split(sizes) for part in seen]
        return [Prediction(*part) for part in zip(*parts, strict=True)]

    def check(self) -> float:
        """Wait for the last call and look at what it returned.

        A call on a GPU goes on while its caller does something else, and is looked at late: when
        the next one is made, or before anything that came of it is recorded or sent.

        Returns
        -------
        float
            Seconds that the call took on a GPU; 0 elsewhere.

        Raises
        ------
        NetworkError
            If it returned NaN or infinity.
        """
        call, self._open = self._open, None
        if call is None:
            return 0.0
        if not isfinite(float(call.spread)) and not finite(call.output):
            rows = call.output.split([len(request.x) for request in call.requests])
            bad, out = next(
                (r, o) for r, o in zip(call.requests, rows, strict=True) if not finite(o)
            )
            row = next(row for row, one in enumerate(out) if not finite(one))
            raise NetworkError(
                f"the network returned NaN or infinity at {self._place(bad, row)}, sample {row}"
            )
        return call.clock.seconds() if call.clock else 0.0

    def _output(self, requests: Sequence[EvaluateRequest], x: Tensor, at: Columns) -> Tensor:
        """Call the network on as many rows at a time as fit, half of them where memory runs out."""
        rows, outputs, first = len(x), [], 0
        unit = len(requests[0].x) if in_turn(self.denoiser) else 1
        while first < rows:
            end = min(first + (self._fits or rows), rows)
            part = slice(first, end)
            whole = end - first == rows
            try:
                outputs.append(self._call(x if whole else x[part], at.of_rows(part), requests[0]))
            except torch.OutOfMemoryError:
                self._fits = (end - first) // 2 // unit * unit
                if not self._fits:
                    raise
                continue
            first = end
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _call(self, x: Tensor, at: Columns, request: EvaluateRequest) -> Tensor:
        # Never a state itself, which a network that works in place would touch; and contiguous,
        # as states are that came by message, so that no bit depends on who made a state.
        given = network_input(self.denoiser.prediction, x, at.a, at.s)
        given = given.to(self.dtype, copy=given is x, memory_format=torch.contiguous_format)
        t, alpha_bar = (one.expand(len(x)).clone() for one in (at.t, at.alpha_bar))
        output = self.denoiser(given, t, alpha_bar)
        learned = getattr(self.denoiser, "learns_variance", False)
        wanted = (x.shape[0], 2 * x.shape[1], *x.shape[2:]) if learned else tuple(x.shape)
        if not isinstance(output, Tensor) or output.shape != wanted:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NetworkError(
                f"the network returned {shape} for {tuple(x.shape)} at {self._place(request)}: "
                f"it must return one row per state{', twice the channels' if learned else ''}"
            )
        return output

    def _time(self, level: Level) -> float:
        return network_time(self.denoiser.prediction, self._told(level))

    def _told(self, level: Level) -> Level:
        """Return a level with this network's own timestep."""
        if self.schedule is None:
            return level
        noisiest = float(self.schedule.alpha_bar(self.schedule.first))
        t = float(self.schedule.timestep(max(level.alpha_bar, noisiest)))
        return Level(t, level.alpha_bar)

    def _place(self, request: EvaluateRequest, row: int = 0) -> str:
        ask = request.ask
        place = ask.place or f"slice {ask.n}, iteration {ask.k}"
        return f"{place}, step {step_index(self.grid, request.levels[row])}"


class _Clock:
    """Times a call on a GPU without waiting for it."""

    def __init__(self) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._events[0].record()

    def stopped(self) -> _Clock:
        self._events[1].record()
        return self

    def seconds(self) -> float:
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000


class _Open(NamedTuple):
    """A call that has not been looked at: greatest value less least one is NaN if any is."""

    requests: Sequence[EvaluateRequest]
    output: Tensor
    spread: Tensor
    clock: _Clock | None


def finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(torch.isfinite(x).all())


def step_index(grid: TimeGrid, level: Level) -> int:
    """Number of the fine step that begins at a level or has it inside; 0 above the first level."""
    begun = (i for i, fine in enumerate(grid.levels) if fine.alpha_bar <= level.alpha_bar)
    return max(begun, default=0)
