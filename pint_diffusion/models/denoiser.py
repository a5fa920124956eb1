"""The protocol of a network, and the noise levels that it was trained with."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import FlowSchedule, NoiseSchedule, Schedule, SigmaSchedule
from pint_diffusion.numerics.prediction import PredictionType


@runtime_checkable
class Denoiser(Protocol):
    """A network that evaluates a batch whose rows may have different noise levels.

    Attributes
    ----------
    shape : tuple of int
        Shape of one sample, for pictures (channels, height, width).
    prediction : {"epsilon", "v", "sample", "flow", "denoised"}
        Form of the network's input and output, see `network_input` and `predict`.
    data_range : tuple of float
        Least and greatest value of clean data, (-1, 1) for most networks. Most tolerances are in
        units of this range.

    Notes
    -----
    One more attribute has the noise levels that the network was trained with, see `schedule_of`:

    * ``alphas_cumprod``, array_like (T,): alpha_bar after each training step;
    * ``sigma_range``, two floats: least and greatest noise level s / a;
    * ``training_steps``, int, for flow networks: the timestep of pure noise, 1000 if absent.

    A network with ``learns_variance = True`` returns twice the channels, (R, 2 C, ...); the second
    half is `Prediction.variance`. A class-conditional network takes labels too;
    `pint_diffusion.models.conditional` makes a `Denoiser` of it.
    """

    shape: tuple[int, ...]
    prediction: PredictionType
    data_range: tuple[float, float]

    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : Tensor, shape (R, *shape)
            States in the network's dtype, each row at its own level, see `network_input`.
        t : Tensor, shape (R,)
            Timesteps in the units of its `Schedule`, possibly fractions, see `network_time`.
        alpha_bar : Tensor, shape (R,)
            alpha_bar of each row, float64, for models in closed form.

        Returns
        -------
        Tensor, shape (R, *shape)
            Outputs; row r depends on row r of the inputs only.
        """
        ...


def schedule_of(denoiser: Denoiser) -> Schedule:
    """Return the noise schedule that a network was trained with.

    Raises
    ------
    InputError
        If the network has no attribute for it, or if that does not make a schedule.
    """
    sigma_range = getattr(denoiser, "sigma_range", None)
    if sigma_range is not None:
        sigma_min, sigma_max = sigma_range
        return SigmaSchedule(sigma_min, sigma_max)
    if hasattr(denoiser, "alphas_cumprod"):
        return NoiseSchedule(denoiser.alphas_cumprod)
    if denoiser.prediction == "flow":
        return FlowSchedule(getattr(denoiser, "training_steps", 1000))
    raise InputError(
        "the network's noise levels are not known: give it the attribute alphas_cumprod, (T,), "
        "or sigma_range, (sigma_min, sigma_max)"
    )


def output_shape(denoiser: Denoiser) -> tuple[int, ...]:
    """Return the shape of a network's output for one sample; a learned variance doubles C."""
    channels, *rest = denoiser.shape
    return (2 * channels if getattr(denoiser, "learns_variance", False) else channels, *rest)


def in_turn(denoiser: Denoiser) -> bool:
    """Return whether row r of every call belongs to sample r modulo S, as of one with labels.

    Such a network is only given all samples in their order, possibly several times.
    """
    return bool(getattr(denoiser, "in_turn", hasattr(denoiser, "labels")))
