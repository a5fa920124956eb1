"""Networks that are in memory already: any torch module, as a `Denoiser`."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from pint_diffusion.errors import InputError, InputWarning, reason
from pint_diffusion.grid import SigmaSchedule
from pint_diffusion.memory import refuse_more_than_free, state_size
from pint_diffusion.models.diffusers_config import Training, read_network, read_scheduler
from pint_diffusion.numerics.prediction import PredictionType

SIGMA_RANGE = (0.002, 80.0)
"""Noise levels of EDM (Karras et al. 2022, table 1), where a network names none."""


class UNetDenoiser:
    """A diffusers network as a `Denoiser`, or as a `ClassConditional` one.

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(x, t)``, with ``class_labels`` if it has classes; in evaluation mode.
    shape : tuple of int
        Of one sample.
    learns_variance : bool
        See `Denoiser`.
    classes : int or None
        Number of class embeddings.
    training : Training
        What its scheduler tells.
    where : str
        What error messages call it.
    inputs : mapping of str to Tensor, each of shape (1, ...) or (S, ...)
        More arguments of every call; row r of a call has entry r modulo their length.

    Attributes
    ----------
    data_range : tuple of float
        (-1, 1), as diffusers pipelines have it.

    Raises
    ------
    InputError
        If the network can't evaluate a sample of that shape.
    """

    data_range = (-1.0, 1.0)

    def __init__(
        self,
        network: torch.nn.Module,
        shape: tuple[int, ...],
        learns_variance: bool,
        classes: int | None,
        training: Training,
        where: str,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> None:
        if learns_variance and training.preconditioning:
            raise InputError(
                f"{where}: out_channels is twice in_channels, but a network of EDM learns no "
                "variance"
            )
        self.network = network
        self.shape = shape
        self.prediction: PredictionType = training.prediction
        self.learns_variance = learns_variance
        self.classes = classes
        self.preconditioning = training.preconditioning
        self.inputs = dict(inputs or {})
        vars(self).update(training.levels)
        self._try(where)
        for note in training.notes:  # once nothing is wrong
            warnings.warn(note, InputWarning, stacklevel=3)

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, t: Tensor, alpha_bar: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Evaluate the network at timesteps ``t``, see `Denoiser`."""
        if self.preconditioning is None:
            return self._evaluate(x, t, labels)
        scaled, c_noise = self.preconditioning.given(x, t)
        return self.preconditioning.denoised(x, t, self._evaluate(scaled, c_noise, labels))

    def _evaluate(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        more = {name: rows_of(values, x) for name, values in self.inputs.items()}
        if labels is not None:
            more["class_labels"] = labels
        output = self.network(x, t, **more)
        return output if isinstance(output, Tensor) else output.sample

    def _try(self, where: str) -> None:
        device, dtype = home_of(self.network)
        refuse_more_than_free(
            f"{where}: a call for one sample of shape {self.shape}",
            state_size(2, self.shape, 4),
            device or torch.device("cpu"),
            "check sample_size",
        )
        try:
            one = torch.zeros((1, *self.shape), device=device, dtype=dtype)
            level = torch.ones(1, device=device)
            label = None
            if self.classes is not None:
                label = torch.zeros(1, device=device, dtype=torch.int64)
            got = tuple(self(one, level, level, label).shape[1:])
        except Exception as error:
            raise InputError(
                f"{where}: the network can't evaluate a sample of shape {self.shape} as {dtype} on "
                f"{device}; check sample_size, the dtype and the device ({reason(error)})"
            ) from error
        if got != ((2 if self.learns_variance else 1) * self.shape[0], *self.shape[1:]):
            raise InputError(
                f"{where}: the network turns shape {self.shape} into {got}, not into its own"
            )

    def __repr__(self) -> str:
        return f"<{type(self.network).__name__} of {self.shape}, predicts {self.prediction}>"


class EDMDenoiser:
    """A preconditioned network D(y, sigma) of EDM as a `Denoiser`, or as a `ClassConditional` one.

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(y, sigma)`` or, with classes, ``network(y, sigma, one_hot)``.
    shape : tuple of int
        Of one sample.
    sigma_range : tuple of float
        Least and greatest noise level.
    labels : int
        Length of ``one_hot``; 0 for an unconditional network. The label after the last one stands
        for no class.
    """

    prediction: PredictionType = "denoised"
    data_range = (-1.0, 1.0)

    def __init__(
        self,
        network: torch.nn.Module,
        shape: tuple[int, ...],
        sigma_range: tuple[float, float],
        labels: int = 0,
    ) -> None:
        self.network = network
        self.shape = shape
        self.sigma_range = sigma_range
        self.classes = labels + 1 if labels else None
        self.null_class = labels if labels else None

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, t: Tensor, alpha_bar: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Evaluate the network at noise levels ``t``, see `Denoiser`."""
        if self.classes is None or labels is None:
            return self.network(x, t).to(x.dtype)
        one_hot = torch.nn.functional.one_hot(labels, self.classes)[:, :-1]
        return self.network(x, t, one_hot.to(x.dtype)).to(x.dtype)

    def __repr__(self) -> str:
        low, high = self.sigma_range
        name = type(self.network).__name__
        return f"<{name} of {self.shape}, sigma {low:g} to {high:g}>"


def from_diffusers(
    network: torch.nn.Module,
    scheduler: Any,
    shape: tuple[int, ...] | None = None,
    **inputs: Tensor,
) -> UNetDenoiser:
    """Take a network of diffusers that is in memory, and what its scheduler knows.

    The network is not changed: where it is in training mode or its weights want a gradient, a copy
    that shares the weights is evaluated. The numbers are those of the same network loaded from a
    folder.

    Parameters
    ----------
    network : torch.nn.Module
        A UNet2DModel, or any module that is called as ``network(x, t)`` and returns the prediction
        or an object with it as ``sample``.
    scheduler : scheduler of diffusers, or mapping
        The one that the network was trained with, or its configuration. Only its noise levels and
        the kind of prediction are read.
    shape : tuple of int, optional
        Of one sample; what the network's configuration says if not given.
    **inputs : Tensor, shape (1, ...) or (S, ...)
        More arguments of every call, such as ``encoder_hidden_states``, for all or for each of the
        samples of a run.

    Raises
    ------
    InputError
        If the network or its scheduler can't be sampled from.
    """
    name = type(network).__name__
    config = config_of(network)
    if config is None and shape is None:
        raise InputError(f"`shape` is missing: a {name} does not say of what shape its samples are")
    given = {} if shape is None else {"in_channels": shape[0], "sample_size": shape[1:]}
    learns_variance, classes = False, None
    if config is not None:
        read, learns_variance, classes = read_network({**config, **given}, name)
        shape = read if shape is None else shape
    assert shape is not None
    levels = config_of(scheduler)
    if levels is None:
        raise InputError(
            f"`scheduler` is a {type(scheduler).__name__}, which has no configuration: give a "
            "scheduler of diffusers"
        )
    training = read_scheduler(levels, str(levels.get("_class_name", "the scheduler")))
    return UNetDenoiser(
        frozen(network), tuple(shape), learns_variance, classes, training, name, inputs
    )


def from_edm(
    network: torch.nn.Module,
    shape: tuple[int, ...] | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> EDMDenoiser:
    """Take a preconditioned network of EDM that is in memory: D(y, sigma) is the clean sample.

    The network is not changed, see `from_diffusers`.

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(y, sigma)``, y (R, *shape), sigma (R,); with ``label_dim`` > 0 with one
        argument more, the classes (R, label_dim).
    shape : tuple of int, optional
        Of one sample; (img_channels, img_resolution, img_resolution) of the network if not given.
    sigma_min, sigma_max : float, optional
        Noise levels; the network's own, and where it has none, or 0 and infinity, those of EDM.

    Raises
    ------
    InputError
        If the network does not say of what shape its samples are, or if the noise levels are none.
    """
    if shape is None:
        size = getattr(network, "img_resolution", None)
        channels = getattr(network, "img_channels", None)
        if size is None or channels is None:
            raise InputError(
                f"`shape` is missing: a {type(network).__name__} does not say of what shape its "
                "samples are"
            )
        shape = (int(channels), int(size), int(size))
    given = sigma_min, sigma_max
    own = getattr(network, "sigma_min", None), getattr(network, "sigma_max", None)
    low, high = (
        float(next(end for end in ends if end is not None and isfinite(end) and end > 0))
        for ends in zip(given, own, SIGMA_RANGE, strict=True)
    )
    SigmaSchedule(low, high)  # says what is wrong with them
    labels = int(getattr(network, "label_dim", 0) or 0)
    return EDMDenoiser(frozen(network), tuple(shape), (low, high), labels)


def config_of(thing: Any) -> dict[str, Any] | None:
    """Return the configuration that diffusers would save of an object; None if it has none."""
    if isinstance(thing, Mapping):
        return dict(thing)
    if hasattr(thing, "to_json_string"):
        return json.loads(thing.to_json_string())
    return None


def frozen(network: torch.nn.Module) -> torch.nn.Module:
    """Return a network in evaluation mode whose weights want no gradient, and share memory.

    That is the network itself where it is so already: torch takes other kernels for weights that
    want a gradient.

    Raises
    ------
    InputError
        If a copy would be needed and can't be made.
    """
    training = any(module.training for module in network.modules())
    if not training and not any(weight.requires_grad for weight in network.parameters()):
        return network
    memo: dict[int, Any] = {id(tensor): tensor for tensor in network.buffers()}
    for weight in network.parameters():
        memo[id(weight)] = torch.nn.Parameter(weight.detach(), requires_grad=False)
    try:
        return copy.deepcopy(network, memo).eval()
    except Exception as error:
        raise InputError(
            f"a {type(network).__name__} in training mode, or whose weights want a gradient, can't "
            f"be copied ({reason(error)}): call eval() and requires_grad_(False) on it"
        ) from error


def home_of(network: Any, depth: int = 3) -> tuple[torch.device | None, torch.dtype | None]:
    """Return device and floating type of a network's first weight; None where it has none.

    A ``dtype`` of its own tells the type.

    Parameters
    ----------
    network : object
        A module, a tensor, or an object that holds some.
    depth : int
        Objects within objects that are looked into.
    """
    if isinstance(network, Tensor):
        floating = network.is_floating_point()
        return (network.device, network.dtype) if floating else (None, None)
    if isinstance(network, torch.nn.Module):
        parts = [*network.parameters(), *network.buffers()]
    elif depth and not isinstance(network, type) and hasattr(network, "__dict__"):
        parts = [*vars(network).values()]
    else:
        return None, None
    found = (home_of(part, depth - 1) for part in parts)
    device, dtype = next((home for home in found if home != (None, None)), (None, None))
    own = getattr(network, "dtype", None)
    return device, own if isinstance(own, torch.dtype) else dtype


def rows_of(values: Tensor, x: Tensor) -> Tensor:
    """Return one row of ``values`` for each row of ``x``, in turn."""
    values = values.to(x.device)
    if len(values) == 1:
        return values.expand(len(x), *values.shape[1:])
    return values[torch.arange(len(x), device=x.device) % len(values)]
