"""Class-conditional networks: each sample's label, and classifier-free guidance.

A class-conditional network has the attributes of a `Denoiser` and the number of labels,
``classes``. It may have ``null_class``, the label that stands for no class. It takes one argument
more, the labels (R,) of the rows. `condition` makes a plain `Denoiser` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Protocol, cast

import torch
from torch import Tensor

from pint_diffusion.errors import InputError, NetworkError
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.numerics.prediction import PredictionType

PASSED_ON = ("alphas_cumprod", "sigma_range", "training_steps", "learns_variance")
"""Attributes that a `Denoiser` may have."""


class ClassConditional(Protocol):
    """A network that takes the class of every sample.

    Attributes
    ----------
    classes : int
        Number of labels, 0 .. classes - 1, with the one that stands for no class.
    shape, prediction, data_range
        See `Denoiser`; the optional attributes are the same too.

    Notes
    -----
    An optional attribute ``null_class``, int, is the label that stands for no class.
    """

    classes: int
    shape: tuple[int, ...]
    prediction: PredictionType
    data_range: tuple[float, float]

    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor, labels: Tensor) -> Tensor:
        """Evaluate the network, see `Denoiser`, at rows of classes ``labels`` (R,), int64."""
        ...


class Conditioned:
    """A class-conditional network together with its samples' labels: a `Denoiser`.

    Parameters
    ----------
    network : ClassConditional
        The network.
    labels : Tensor, shape (S,)
        Label of each sample. A call has the S samples in order, possibly several times, so row r
        has the label of sample r modulo S.
    null_class : int
        Label of the unconditional half; without guidance the network does not use it.
    guidance : float
        Weight w; with 1 the network evaluates the conditional half alone.
    rescale : float
        See `guided`.
    """

    def __init__(
        self,
        network: ClassConditional,
        labels: Tensor,
        null_class: int = 0,
        guidance: float = 1.0,
        rescale: float = 0.0,
    ) -> None:
        self.network = network
        self.labels = labels
        self.null_class = null_class
        self.guidance = guidance
        self.rescale = rescale
        self.shape = network.shape
        self.prediction = network.prediction
        self.data_range = network.data_range
        for name in PASSED_ON:
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """Evaluate the network; with guidance both halves share one call of 2 R rows.

        A learned variance comes from the conditional half.

        Raises
        ------
        NetworkError
            If the network returns another number of rows than it took.
        """
        self.labels = self.labels.to(x.device)
        rows = len(x)
        labels = self.labels[torch.arange(rows, device=x.device) % len(self.labels)]
        if self.guidance == 1:
            return self.network(x, t, alpha_bar, labels)
        halves = self.network(
            torch.cat([x, x]),
            torch.cat([t, t]),
            torch.cat([alpha_bar, alpha_bar]),
            torch.cat([torch.full_like(labels, self.null_class), labels]),
        )
        if not isinstance(halves, Tensor) or halves.shape[:1] != (2 * rows,):
            got = tuple(halves.shape) if isinstance(halves, Tensor) else type(halves).__name__
            raise NetworkError(
                f"the network returned {got} for {2 * rows} rows, {rows} of them for guidance: "
                "it must return one row per state"
            )
        unconditional, conditional = halves.split(rows)
        channels = self.shape[0]
        output = guided(
            unconditional[:, :channels], conditional[:, :channels], self.guidance, self.rescale
        )
        return torch.cat([output, conditional[:, channels:]], dim=1)


def guided(unconditional: Tensor, conditional: Tensor, guidance: float, rescale: float) -> Tensor:
    """Return u + w (c - u), the classifier-free guidance of Ho & Salimans (2022).

    Parameters
    ----------
    unconditional, conditional : Tensor, shape (R, *shape)
        Outputs u and c of the network, of any form of prediction.
    guidance : float
        Weight w: 0 is unconditional, 1 conditional, more than 1 guided.
    rescale : float
        Share, in [0, 1], by which each row is scaled to the standard deviation of its c (Lin et
        al. 2024, section 3.4).

    Returns
    -------
    Tensor, shape (R, *shape)
    """
    output = unconditional + guidance * (conditional - unconditional)
    if rescale == 0:
        return output
    axes = tuple(range(1, output.ndim))
    scale = conditional.std(axes, keepdim=True) / output.std(axes, keepdim=True)
    return output * (rescale * scale + (1 - rescale))


def condition(
    network: Denoiser | ClassConditional,
    labels: Sequence[int] | None,
    samples: int,
    guidance: float | None = None,
    rescale: float = 0.0,
    null_class: int | None = None,
) -> Denoiser:
    """Give the samples of a run their classes.

    Parameters
    ----------
    network : Denoiser or ClassConditional
        The network. One without ``classes`` comes back as it is.
    labels : sequence of int, optional
        Labels that the samples take in turn: sample i has number i modulo their count. All
        classes but the null one, if not given.
    samples : int
        Number S of samples.
    guidance : float, optional
        Weight w of classifier-free guidance, see `guided`; no guidance if not given or exactly 1.
    rescale : float
        Share of the rescaling, in [0, 1], see `guided`.
    null_class : int, optional
        Label of the unconditional half, instead of the network's own ``null_class``.

    Raises
    ------
    InputError
        If the network can't use an argument, or if an argument is out of its range.
    """
    _check_guidance(guidance, rescale)
    classes = getattr(network, "classes", None)
    if classes is None:
        given = {"labels": labels, "guidance": guidance, "null_class": null_class}
        for name in (name for name, value in given.items() if value is not None):
            raise InputError(
                f"`{name}` is given, but the network is unconditional; leave it out, or use a "
                "class-conditional network"
            )
        return cast(Denoiser, network)
    null = getattr(network, "null_class", None) if null_class is None else null_class
    if labels is None:
        labels = [label for label in range(classes) if label != null] or [0]
    elif not 0 < len(labels) <= samples:
        raise InputError(
            f"`labels` has {len(labels)} labels for {samples} samples; give at least one and at "
            "most one for each sample, the samples take them in turn"
        )
    _check_labels("labels", labels, classes)
    if null is not None:
        _check_labels("null_class", [null], classes)
    elif guidance not in (None, 1):
        raise InputError(
            f"`guidance` is {guidance:g}, but the network does not say which label stands for no "
            "class; name it with `null_class`"
        )
    return Conditioned(
        cast(ClassConditional, network),
        torch.tensor([labels[i % len(labels)] for i in range(samples)]),
        null or 0,
        1.0 if guidance is None else guidance,
        rescale,
    )


def _check_labels(name: str, labels: Sequence[int], classes: int) -> None:
    for label in labels:
        if not 0 <= label < classes:
            raise InputError(
                f"`{name}` has {label}, but the network's labels are 0 to {classes - 1}"
            )


def _check_guidance(guidance: float | None, rescale: float) -> None:
    if guidance is not None and not isfinite(guidance):
        raise InputError(f"`guidance` is {guidance}; give a finite number, such as 3")
    if not 0 <= rescale <= 1:
        raise InputError(f"`guidance_rescale` is {rescale}; give a share between 0 and 1")
    if rescale > 0 and guidance is None:
        raise InputError(
            f"`guidance_rescale` is {rescale:g}, but there is no guidance to rescale; give "
            "`guidance` too, or leave it out"
        )
