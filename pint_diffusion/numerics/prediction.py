"""What a network is given and what it says: the one place that reads its output.

A sampler step needs the clean picture x0 and the noise eps that a network sees in a state
``x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps``. Networks are trained to say this in five
ways; `network_input` and `network_time` are what each is given, and `predict` turns what it
returns into the pair (x0, eps).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from pint_diffusion.grid.level import Level

PredictionType = Literal["epsilon", "v", "sample", "flow", "denoised"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)


class Prediction(NamedTuple):
    """What a network sees in a state.

    Attributes
    ----------
    x0, eps : Tensor, shape (R, *shape)
        The clean sample and the noise.
    variance : Tensor, shape (R, *shape), optional
        Where the network has learned it: where between the least and the greatest possible one,
        as -1 and 1, the logarithm of a step's variance lies (Nichol & Dhariwal 2021).
    output : Tensor, shape (R, *shape) or (R, 2 C, ...), optional
        What the network returned: the others are a function of this, the state and its level.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None
    output: Tensor | None = None


def network_time(kind: PredictionType, level: Level) -> float:
    """Return what the network is told about a level.

    That is sigma = s / a for a denoised network, and otherwise the timestep, but never less than
    zero, which is the least one that a network was trained with.
    """
    return level.sigma if kind == "denoised" else max(level.t, 0.0)


def network_input(kind: PredictionType, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """Scale states (R, *shape) as the network expects them.

    With a the signal and s the noise coefficient, which are as in `predict`,

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
        What `output` is.
    x, output : Tensor, shape (R, *shape)
        States and network outputs, same floating dtype. An output with twice the channels,
        (R, 2 C, ...), has the learned variance as its second half.
    a, s : Tensor, shape (R, 1, ...) or (1, 1, ...)
        Signal and noise coefficient of each row, or of all, in the dtype of ``x``. At a = 0, where
        flow begins, a network of kind epsilon tells no x0, and one of kind denoised can't be asked.
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
