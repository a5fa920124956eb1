"""Predictions: the input of a network, and x0 and eps from its output.

A sampler step needs the clean sample x0 and the noise eps that a network sees in a state
``x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps``. Networks are trained to predict them in five
forms. `network_input` and `network_time` make the input of each form. `predict` turns its output
into the pair (x0, eps).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from pint_diffusion.grid.level import Level

PredictionType = Literal["epsilon", "v", "sample", "flow", "denoised"]
"""Forms of a network's output, see `predict`."""

PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)


class Prediction(NamedTuple):
    """The clean sample and the noise that a network sees in each of R states.

    Attributes
    ----------
    x0, eps : Tensor, shape (R, *shape)
        The clean sample and the noise.
    variance : Tensor, shape (R, *shape), optional
        Learned variance of a DDPM step: the place of its logarithm between the least possible
        value, -1, and the greatest, 1 (Nichol & Dhariwal 2021).
    output : Tensor, shape (R, *shape) or (R, 2 C, ...), optional
        Output of the network. The other attributes are functions of it, the state and the level.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None
    output: Tensor | None = None


def network_time(kind: PredictionType, level: Level) -> float:
    """Return the time that the network takes for a level.

    A denoised network takes sigma = s / a. The others take the timestep, but at least zero, the
    least one that a network was trained with.
    """
    return level.sigma if kind == "denoised" else max(level.t, 0.0)


def network_input(kind: PredictionType, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """Return states (R, *shape) scaled for the network.

    With a the signal and s the noise coefficient, as in `predict`,

    * a flow network lives on z = (1 - sigma) x0 + sigma eps, so z = x / (a + s);
    * a denoised network lives on y = x0 + sigma eps, so y = x / a.

    The others take x as it is.
    """
    if kind not in ("flow", "denoised"):
        return x
    return x / (a + s) if kind == "flow" else x / a


def predict(kind: PredictionType, x: Tensor, output: Tensor, a: Tensor, s: Tensor) -> Prediction:
    """Turn a network's output into (x0, eps).

    With a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar), x = a x0 + s eps:

    * epsilon: output = eps;
    * v: output = a eps - s x0 (Salimans & Ho 2022);
    * sample: output = x0;
    * flow: output = eps - x0, at z = x / (a + s) (Lipman et al. 2023);
    * denoised: output = x0, at y = x / a (EDM, Karras et al. 2022; k-diffusion).

    Parameters
    ----------
    kind : {"epsilon", "v", "sample", "flow", "denoised"}
        Form of ``output``.
    x, output : Tensor, shape (R, *shape)
        States and network outputs, same floating dtype. An output with twice the channels,
        (R, 2 C, ...), has the learned variance as its second half.
    a, s : Tensor, shape (R, 1, ...) or (1, 1, ...)
        Signal and noise coefficient of each row, or of all, in the dtype of ``x``. At a = 0, where
        flow begins, x0 does not follow from epsilon, and denoised has no input.
    """
    if output.shape[1] == 2 * x.shape[1]:
        output, variance = output.chunk(2, dim=1)
        return predict(kind, x, output, a, s)._replace(variance=variance)
    if kind == "epsilon":
        return Prediction((x - s * output).div_(a), output)
    if kind == "v":
        return Prediction(a * x - s * output, s * x + a * output)
    if kind == "flow":
        z = x / (a + s)
        return Prediction(z - s / (a + s) * output, z + a / (a + s) * output)
    return Prediction(output, (x - a * output).div_(s))
