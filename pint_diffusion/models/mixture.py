"""Gaussian mixtures: a denoiser in closed form, for tests, studies and runs without a network.

Let a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar). Clean data
``p(x0) = sum_k w_k N(mu_k, v_k I)`` has the density
``p(x) = sum_k w_k N(a mu_k, (a^2 v_k + s^2) I)`` at level alpha_bar. A perfect network sees the
noise ``eps(x) = -s grad log p(x)`` in x.
"""

from __future__ import annotations

import warnings
from os import PathLike

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pint_diffusion.errors import InputError, InputWarning
from pint_diffusion.grid import NoiseSchedule
from pint_diffusion.memory import refuse_more_than_free
from pint_diffusion.numerics.prediction import PredictionType
from pint_diffusion.numerics.sums import folded

REQUIRED = ("means", "variances", "weights")
OPTIONAL = ("alphas_cumprod", "data_range")


class GaussianMixture:
    """The exact denoiser of a mixture of isotropic Gaussians.

    It predicts eps and takes the level from ``alpha_bar``, not from ``t``. It computes in float64
    for every ``dtype`` and rounds once, at the end. Row r of the result has the same bits in every
    batch.

    Parameters
    ----------
    means : array_like, shape (K, *shape)
        Centres mu_k of the components.
    variances : array_like, shape (K,)
        Variances v_k > 0 of every entry about the centre.
    weights : array_like, shape (K,)
        Probabilities w_k >= 0 of the components, of sum 1.
    device : torch.device
        Device of states and results.
    dtype : torch.dtype
        Floating type of states and results.
    alphas_cumprod : array_like, shape (T,), optional
        Noise schedule; the linear one of DDPM with T = 1000 if not given.
    data_range : array_like, shape (2,)
        Least and greatest value of clean data.

    Raises
    ------
    InputError
        If an array has the wrong shape or type or impossible values.

    Notes
    -----
    A call with R rows of D entries needs a few float64 arrays of R K D entries.
    """

    prediction: PredictionType = "epsilon"

    def __init__(
        self,
        means: ArrayLike,
        variances: ArrayLike,
        weights: ArrayLike,
        device: torch.device,
        dtype: torch.dtype,
        alphas_cumprod: ArrayLike | None = None,
        data_range: ArrayLike = (-1.0, 1.0),
    ) -> None:
        mu = _real("means", means)
        if mu.ndim < 2:
            raise InputError(f"means has shape {mu.shape}; stack the K centres as (K, *shape)")
        var, weight = _real("variances", variances), _real("weights", weights)
        for name, values in (("variances", var), ("weights", weight)):
            if values.shape != mu.shape[:1]:
                raise InputError(
                    f"{name} has shape {values.shape}, but means has {len(mu)} components; "
                    f"give one value for each, ({len(mu)},)"
                )
        if (var <= 0).any():
            raise InputError(f"variances must be positive, but the least is {var.min():g}")
        if (weight < 0).any():
            raise InputError(f"weights must not be negative, but the least is {weight.min():g}")
        if abs(weight.sum() - 1) > 1e-6:
            raise InputError(f"weights has the sum {weight.sum():g}, not 1; divide it by its sum")
        span = _real("data_range", data_range)
        if span.shape != (2,) or span[0] >= span[1]:
            raise InputError(
                f"data_range is {span.tolist()}; give the least and the greatest clean value"
            )
        schedule = (
            NoiseSchedule.ddpm_linear()
            if alphas_cumprod is None
            else NoiseSchedule(_real("alphas_cumprod", alphas_cumprod))
        )
        self.shape: tuple[int, ...] = mu.shape[1:]
        self.alphas_cumprod: ArrayLike = schedule.alphas_cumprod
        self.data_range = (float(span[0]), float(span[1]))
        self.dtype = dtype
        self._means = torch.from_numpy(mu.reshape(len(mu), -1)).to(device)
        self._variances = torch.from_numpy(var).to(device)
        self._log_weights = torch.log(torch.from_numpy(weight)).to(device)

    def __repr__(self) -> str:
        return f"<GaussianMixture of {len(self._means)} components, {self.shape}>"

    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """Return eps = -s grad log p(x).

        This is ``s sum_k r_k (x - a mu_k) / (a^2 v_k + s^2)``, where r_k is the posterior
        probability of component k.

        Parameters
        ----------
        x : Tensor, shape (R, *shape)
            States.
        t : Tensor, shape (R,)
            Not used.
        alpha_bar : Tensor, shape (R,)
            Level of each row.

        Returns
        -------
        Tensor, shape (R, *shape)
            The noise, in the mixture's dtype.
        """
        # Every operation here is elementwise or works on one row by itself: see `folded` and xlogy.
        rows = x.to(torch.float64).flatten(1).unsqueeze(1)
        alpha_bar = alpha_bar.to(rows).unsqueeze(1)
        noise = 1 - alpha_bar
        apart = rows - torch.sqrt(alpha_bar).unsqueeze(2) * self._means  # (R, K, D)
        variance = alpha_bar * self._variances + noise  # (R, K)
        # xlogy(c, v) is c log v by the scalar log; torch.log would go through a vector library,
        # which promises nothing about equal bits at different places of an array.
        half_log_det = torch.xlogy(0.5 * apart.shape[2], variance)
        logits = self._log_weights - folded(apart * apart, 2) / (2 * variance) - half_log_det
        pull = torch.softmax(logits, dim=1) / variance
        eps = torch.sqrt(noise) * folded(pull.unsqueeze(2) * apart, 1)
        return eps.reshape(x.shape).to(self.dtype)


def load_mixture(
    path: str | PathLike[str], device: torch.device, dtype: torch.dtype
) -> GaussianMixture:
    """Read a mixture from an .npz file.

    Parameters
    ----------
    path : path
        File with ``means`` (K, *shape), ``variances`` (K,) and ``weights`` (K,), and optionally
        ``alphas_cumprod`` (T,) and ``data_range`` (2,); see `GaussianMixture`.
    device : torch.device
        Device of states and results.
    dtype : torch.dtype
        Floating type of states and results.

    Raises
    ------
    InputError
        If the file can't be read or does not describe a mixture.
    """
    arrays, unknown = _read(path)
    try:
        mixture = GaussianMixture(**arrays, device=device, dtype=dtype)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if unknown:
        warnings.warn(
            f"{path}: does not use the array {' and '.join(unknown)}; known are "
            f"{', '.join(REQUIRED + OPTIONAL)}",
            InputWarning,
            stacklevel=2,
        )
    return mixture


def _read(path: str | PathLike[str]) -> tuple[dict[str, NDArray], list[str]]:
    """Return the known arrays of an .npz file, and the names of the others; never unpickles."""
    advice = f"write it with numpy.savez(file, {', '.join(f'{name}=...' for name in REQUIRED)})"
    try:
        file = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: can't be opened ({error.strerror or error})") from None
    except Exception as error:  # what numpy and zipfile raise on rubbish is not one family
        raise InputError(f"{path}: is no .npz file ({type(error).__name__}); {advice}") from None
    if not isinstance(file, NpzFile):
        raise InputError(f"{path}: holds a single array and is no .npz file; {advice}")
    with file:
        if file.zip is not None:  # what little is compressed may be much
            whole = sum(array.file_size for array in file.zip.infolist())
            refuse_more_than_free(f"{path}", whole, torch.device("cpu"), "it is no mixture")
        try:  # an array that is read shorter than it was written is not checked by itself
            torn = file.zip is None or file.zip.testzip()
        except Exception as error:
            torn = type(error).__name__
        if torn:
            raise InputError(f"{path}: is damaged ({torn}); {advice}")
        missing = [name for name in REQUIRED if name not in file.files]
        if missing:
            raise InputError(f"{path}: lacks the array {' and '.join(missing)}; {advice}")
        unknown = sorted(set(file.files) - set(REQUIRED + OPTIONAL))
        arrays = {}
        for name in file.files:
            if name in unknown:
                continue
            try:
                arrays[name] = file[name]
            except Exception as error:
                raise InputError(
                    f"{path}: the array {name} can't be read ({type(error).__name__}: it is "
                    "damaged or holds Python objects); save it again as plain numbers"
                ) from None
        return arrays, unknown


def _real(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return ``values`` as float64 if they are finite real numbers, at least one."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise InputError(f"{name} is no array of numbers") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has dtype {array.dtype}; give real numbers, such as float64")
    if array.size == 0:
        raise InputError(f"{name} has shape {array.shape} and is empty; give at least one value")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity; give finite numbers")
    return array.astype(np.float64)
