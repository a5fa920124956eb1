"""The network call: requests in, one batched evaluation, predictions out."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import torch
from torch import Tensor

from pint_diffusion.errors import NetworkError, NetworkRaisedError
from pint_diffusion.grid import Level, Schedule, TimeGrid
from pint_diffusion.models.denoiser import Denoiser
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

    @torch.inference_mode()
    def __call__(self, requests: Sequence[EvaluateRequest]) -> list[Prediction]:
        """Make one network call and hand each request its rows, (S, *shape) each.

        Raises
        ------
        NetworkError
            If the network returns the wrong shape, NaN or infinity.
        NetworkRaisedError
            If it raises anything, or wants to end the process.
        """
        sizes = [len(request.x) for request in requests]
        kind = self.denoiser.prediction
        x = torch.cat([r.x for r in requests]) if len(requests) > 1 else requests[0].x
        levels = [level for request in requests for level in request.levels]
        t = self._rows([network_time(kind, self._told(level)) for level in levels]).to(
            self.state_dtype
        )
        alpha_bar = self._rows([level.alpha_bar for level in levels])
        # Never a state itself, which a network that works in place would touch; and contiguous,
        # as states are that came by message, so that no bit depends on who made a state.
        given = network_input(kind, x, alpha_bar)
        given = given.to(
            self.dtype, copy=given is requests[0].x, memory_format=torch.contiguous_format
        )
        try:
            output = self.denoiser(given, t, alpha_bar.clone())
        except (Exception, SystemExit) as error:
            raise NetworkRaisedError(
                f"the network failed at {self._place(requests[0])}:\n{traceback.format_exc()}"
            ) from error
        learned = getattr(self.denoiser, "learns_variance", False)
        wanted = (x.shape[0], 2 * x.shape[1], *x.shape[2:]) if learned else tuple(x.shape)
        if not isinstance(output, Tensor) or output.shape != wanted:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NetworkError(
                f"the network returned {shape} for {tuple(x.shape)} at {self._place(requests[0])}: "
                f"it must return one row per state{', twice the channels' if learned else ''}"
            )
        rows = list(output.to(self.state_dtype).split(sizes))
        if not finite(output):
            bad, out = next((r, o) for r, o in zip(requests, rows, strict=True) if not finite(o))
            row = next(row for row, one in enumerate(out) if not finite(one))
            raise NetworkError(f"the network returned NaN or infinity at {self._place(bad, row)}")
        return [
            predict(kind, request.x, out, rows_alpha_bar)._replace(output=out)
            for request, out, rows_alpha_bar in zip(
                requests, rows, alpha_bar.split(sizes), strict=True
            )
        ]

    def _told(self, level: Level) -> Level:
        """Return a level with this network's own timestep."""
        if self.schedule is None:
            return level
        noisiest = float(self.schedule.alpha_bar(self.schedule.first))
        t = float(self.schedule.timestep(max(level.alpha_bar, noisiest)))
        return Level(t, level.alpha_bar)

    def _rows(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(self.device)

    def _place(self, request: EvaluateRequest, row: int = 0) -> str:
        ask = request.ask
        place = ask.place or f"slice {ask.n}, iteration {ask.k}"
        return f"{place}, step {step_index(self.grid, request.levels[row])}"


def finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite; they show in the extremes, which take one pass."""
    return bool(torch.isfinite(torch.stack(x.aminmax())).all())


def step_index(grid: TimeGrid, level: Level) -> int:
    """Number of the fine step that begins at a level or has it inside; 0 above the first level."""
    begun = (i for i, fine in enumerate(grid.levels) if fine.alpha_bar <= level.alpha_bar)
    return max(begun, default=0)
