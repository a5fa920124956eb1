"""The preconditioning of EDM: it makes a denoiser D of a network F."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preconditioning:
    """D(y, sigma) = c_skip y + c_out F(c_in y, c_noise) (Karras et al. 2022, table 1).

    Attributes
    ----------
    sigma_data : float
        Standard deviation of clean data.
    sign : {1, -1}
        Sign of c_out: 1 as in the paper, -1 for networks that predict v in the words of diffusers.
    """

    sigma_data: float
    sign: int = 1

    def given(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of F: c_in y (R, *shape) and c_noise = log(sigma) / 4, (R,)."""
        c_in = 1 / torch.sqrt(sigma**2 + self.sigma_data**2)
        return _rows(c_in, y) * y, torch.log(sigma) / 4

    def denoised(self, y: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """Return D (R, *shape) at states y and noise levels (R,), where F returns ``output``."""
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = self.sign * self.sigma_data * sigma / torch.sqrt(variance)
        return _rows(c_skip, y) * y + _rows(c_out, y) * output


def _rows(values: Tensor, y: Tensor) -> Tensor:
    return values.view(-1, *[1] * (y.ndim - 1)).to(y.dtype)
