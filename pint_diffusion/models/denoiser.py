"""What is evaluated: the protocol of a network, and the one place that reads its output.

A sampler step needs the clean picture x0 and the noise eps that a network sees in a state
``x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps``. Networks are trained to say this in four
ways; `predict` turns each into the pair (x0, eps).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

PredictionType = Literal["epsilon", "v", "sample", "flow"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)


@runtime_checkable
class Denoiser(Protocol):
    """One network evaluation for a batch whose rows may stand at different noise levels.

    Attributes
    ----------
    shape : tuple of int
        Shape of one sample, for pictures (channels, height, width).
    prediction : {"epsilon", "v", "sample", "flow"}
        What the network returns, see `predict`.
    alphas_cumprod : array_like, shape (T,)
        alpha_bar after each training step, strictly decreasing in (0, 1).
    data_range : tuple of float
        Least and greatest value of clean data, (-1, 1) for most networks. Tolerances are stated
        on the scale on which this range is [0, 255].
    """

    shape: tuple[int, ...]
    prediction: PredictionType
    alphas_cumprod: ArrayLike
    data_range: tuple[float, float]

    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : Tensor, shape (R, *shape)
            States in the network's dtype, each row at its own level.
        t : Tensor, shape (R,)
            Timesteps in units of training steps, 0 to T - 1, may be fractional.
        alpha_bar : Tensor, shape (R,)
            The rows' alpha_bar in float64, for models that are given by a formula.

        Returns
        -------
        Tensor, shape (R, *shape)
            Row r depends on row r of the inputs only.
        """
        ...


class Prediction(NamedTuple):
    """What a network sees in a state: the clean sample and the noise, both (R, *shape)."""

    x0: Tensor
    eps: Tensor


def network_input(kind: PredictionType, x: Tensor, alpha_bar: Tensor) -> Tensor:
    """Scale states (R, *shape) as the network expects them.

    A flow network lives on z = (1 - sigma) x0 + sigma eps; z = x / (a + s) with a the signal and
    s the noise coefficient, so sigma = s / (a + s). The others take x as it is.
    """
    if kind != "flow":
        return x
    a, s = _coefficients(x, alpha_bar)
    return x / (a + s)


def predict(kind: PredictionType, x: Tensor, output: Tensor, alpha_bar: Tensor) -> Prediction:
    """Turn a network's output into (x0, eps).

    With a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar), x = a x0 + s eps:

    * epsilon: output = eps;
    * v: output = a eps - s x0 (Salimans & Ho 2022);
    * sample: output = x0;
    * flow: output = eps - x0, at z = x / (a + s) (Lipman et al. 2023).

    Parameters
    ----------
    kind : {"epsilon", "v", "sample", "flow"}
        What `output` is.
    x, output : Tensor, shape (R, *shape)
        States and network outputs, same floating dtype.
    alpha_bar : Tensor, shape (R,)
        Level of each row.
    """
    a, s = _coefficients(x, alpha_bar)
    if kind == "epsilon":
        return Prediction((x - s * output) / a, output)
    if kind == "v":
        return Prediction(a * x - s * output, s * x + a * output)
    if kind == "sample":
        return Prediction(output, (x - a * output) / s)
    z = x / (a + s)
    return Prediction(z - s / (a + s) * output, z + a / (a + s) * output)


def _coefficients(x: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise coefficient of each row, rounded once: near the clean end 1 - alpha_bar
    would lose three digits in float32.
    """
    alpha_bar = alpha_bar.double().view(-1, *[1] * (x.ndim - 1))
    return torch.sqrt(alpha_bar).to(x.dtype), torch.sqrt(1 - alpha_bar).to(x.dtype)
