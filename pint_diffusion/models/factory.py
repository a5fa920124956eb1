"""Networks of the user's own: ``module:factory`` and ``path/to/file.py:factory``."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch

from pint_diffusion.errors import InputError, reason
from pint_diffusion.models.denoiser import Denoiser, schedule_of
from pint_diffusion.numerics.prediction import PREDICTION_TYPES
from pint_diffusion.third_party import load

ATTRIBUTES = ("shape", "prediction", "data_range")


def load_factory(spec: str, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """Import a factory, call ``factory(device=device, dtype=dtype)`` and check what it returns.

    Parameters
    ----------
    spec : str
        ``module:factory``, the module as in an import statement, or ``path/to/file.py:factory``.
    device : torch.device
        Device of the network.
    dtype : torch.dtype
        Floating type of states and results.

    Raises
    ------
    InputError
        If there is no such factory, if it raises an exception, or if it returns something that is
        no `Denoiser`.
    """
    source, _, name = spec.rpartition(":")
    factory = load(spec)
    if not callable(factory):
        raise InputError(f"{spec}: {source} has no function {name}; write one that returns a model")
    try:
        model = factory(device=device, dtype=dtype)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(
            f"{spec}: the call {name}(device=..., dtype=...) failed ({reason(error)})"
        ) from error
    try:
        check_denoiser(model)
    except Exception as error:
        told = str(error) if isinstance(error, InputError) else reason(error)
        raise InputError(f"{spec}: {name} returned no usable denoiser: {told}") from error
    return model


def check_denoiser(model: Any) -> None:
    """Raise InputError, or whatever the model's attributes raise, unless it is a `Denoiser`."""
    if isinstance(model, type):
        raise InputError(f"it is the class {model.__name__}, not an instance of it")
    if not callable(model):
        raise InputError(f"a {type(model).__name__} can't be called as (x, t, alpha_bar)")
    missing = [name for name in ATTRIBUTES if not hasattr(model, name)]
    if missing:
        raise InputError(f"it lacks the attribute {' and '.join(missing)}")
    shape, prediction = model.shape, model.prediction
    if not isinstance(shape, tuple) or not shape or not all(_is_size(n) for n in shape):
        raise InputError(f"its shape is {shape!r}, not a tuple of positive integers")
    if not isinstance(prediction, str) or prediction not in PREDICTION_TYPES:
        raise InputError(
            f"its prediction is {prediction!r}; known are {', '.join(PREDICTION_TYPES)}"
        )
    schedule_of(model)
    classes, null_class = getattr(model, "classes", None), getattr(model, "null_class", None)
    if classes is not None and not _is_size(classes):
        raise InputError(f"its classes is {classes!r}, not the number of its labels")
    if null_class is not None and (classes is None or null_class not in range(classes)):
        raise InputError(
            f"its null_class is {null_class!r} and its classes is {classes!r}; null_class must be "
            "one of the labels 0 to classes - 1"
        )
    low, high = model.data_range
    if not all(isinstance(end, Real) and math.isfinite(end) for end in (low, high)) or low >= high:
        raise InputError(f"its data_range is {model.data_range!r}, not two finite rising numbers")


def _is_size(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n > 0
