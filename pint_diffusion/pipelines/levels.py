"""Noise levels of a user's scheduler, and x0 and eps of what it is told."""

from __future__ import annotations

from math import hypot, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.pipelines.state import State
from pint_diffusion.solvers.solver import Past

LEAST = 1e-6
"""A and s are taken to be no less where something is divided by them."""


class Coefficients(NamedTuple):
    """A and s of states x = a x0 + s eps as the scheduler keeps them; not always a^2 + s^2 = 1."""

    a: float
    s: float

    @property
    def scale(self) -> float:
        """Return sqrt(a^2 + s^2), by which the states are larger than those of a `Level`."""
        return hypot(self.a, self.s)


class Place(Level):
    """A level that also says which body evaluates there; its a and s are the scheduler's own.

    Attributes
    ----------
    body : int
        Number of the body.
    past : tuple of Tensor
        What else than x the body begins with, (S, D) each; empty where that is not known.
    """

    body: int
    past: Past
    own: Coefficients

    @classmethod
    def at(cls, body: int, own: Coefficients, past: Past = ()) -> Place:
        """Make the place of a body."""
        place = cls(float(body), (own.a / own.scale) ** 2)
        place.body, place.past, place.own = body, past, own
        return place

    def remembering(self, past: Past) -> Place:
        """Return this place with what else the body begins with."""
        return Place.at(self.body, self.own, past)

    @property
    def a(self) -> float:
        """Signal coefficient."""
        return self.own.a

    @property
    def s(self) -> float:
        """Noise coefficient."""
        return self.own.s

    @property
    def v_slope(self) -> float:
        """D eps / d x while v does not move."""
        return self.own.s / self.own.scale**2


class Linear(NamedTuple):
    """Eps as a linear function: eps = of_sample x + of_output times what a scheduler is told."""

    of_sample: float
    of_output: float

    @classmethod
    def at(cls, scheduler: Any, place: Place) -> Linear:
        """Find it by trying."""
        one = torch.ones(1, 1, dtype=torch.float64)
        tried = (seen_by(scheduler, *given, place)[1] for given in ((0 * one, one), (one, 0 * one)))
        return cls(*map(float, tried))

    def output(self, x: Tensor, eps: Tensor) -> Tensor:
        """Return what the scheduler has to be told for some eps."""
        return (eps - self.of_sample * x) / self._divisor

    def slope(self, kappa: Tensor) -> Tensor:
        """Return d output / d x for d eps / d x = kappa."""
        return (kappa - self.of_sample) / self._divisor

    @property
    def _divisor(self) -> float:
        return self.of_output if abs(self.of_output) > LEAST else LEAST


class Memory(tuple[Tensor, ...]):
    """What a body leaves beside x, (S, D) each, and the state itself, where it was made."""

    state: State | None

    @classmethod
    def of(cls, tensors: Past, state: State | None) -> Memory:
        """Make it of the tensors and the state."""
        memory = cls(tensors)
        memory.state = state
        return memory


def coefficients(scheduler: Any, timestep: Any, step: int = 0) -> Coefficients | None:
    """Return a and s of the states that a scheduler is given in its last step, or None.

    Parameters
    ----------
    scheduler : object
        It has just made a step.
    timestep : Tensor or number
        Timestep of that step.
    step : int
        Levels further on.
    """
    sigmas, index = getattr(scheduler, "sigmas", None), getattr(scheduler, "_step_index", None)
    if sigmas is not None and index is not None:
        sigma = float(sigmas[min(index - 1 + step, len(sigmas) - 1)])
        if is_flow(scheduler):
            return Coefficients(1 - sigma, sigma)
        if not hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
            return Coefficients(1.0, sigma)
        a, s = scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma, dtype=torch.float64))
        return Coefficients(float(a), float(s))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        return None
    t = int(timestep)
    if step:
        later = scheduler.timesteps[scheduler.timesteps < t]
        last = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        alpha_bar = float(table[int(later[0])]) if len(later) else last
    else:
        alpha_bar = float(table[t])
    return Coefficients(sqrt(alpha_bar), sqrt(1 - alpha_bar))


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler's states are x = (1 - sigma) x0 + sigma eps."""
    config = scheduler.config
    known = hasattr(scheduler, "alphas_cumprod") or "prediction_type" in config
    chosen = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(chosen) or not known


def seen_by(scheduler: Any, output: Tensor, sample: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """Return x0 and eps of what a scheduler was told in a state, in float32 at least.

    Parameters
    ----------
    scheduler : object
        It says which prediction its ``model_output`` is.
    output, sample : Tensor
        What it was told, and the state.
    place : Place
        Where it was evaluated.
    """
    if output.ndim > 1 and output.shape[1] == 2 * sample.shape[1]:  # and a learned variance
        output = output.chunk(2, dim=1)[0]
    if output.dtype != torch.float64:
        output, sample = output.float(), sample.float()
    a, s, c = place.a, place.s, place.own.scale
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if hasattr(scheduler, "precondition_outputs"):
        x0 = scheduler.precondition_outputs(sample, output, torch.tensor(s))
    elif is_flow(scheduler) and kind == "flow_prediction":
        return sample - s * output, sample + a * output
    elif kind == "v_prediction":
        return a / c**2 * sample - s / c * output, s / c**2 * sample + a / c * output
    elif kind == "sample":
        x0 = output
    else:
        return (sample - s * output) / max(a, LEAST), output
    return x0, (sample - a * x0) / max(s, LEAST)
