"""Sums whose bits depend on their terms only."""

from __future__ import annotations

import torch
from torch import Tensor


def folded(values: Tensor, dim: int) -> Tensor:
    """Sum over ``dim`` by folding it in half until one entry is left.

    torch.sum picks its order of summation from the whole shape and the number of threads, so that
    a row's bits can depend on the rows beside it and on the host; these additions are elementwise.
    """
    while (count := values.shape[dim]) > 1:
        half = count // 2
        sums = values.narrow(dim, 0, half) + values.narrow(dim, half, half)
        rest = values.narrow(dim, 2 * half, count - 2 * half)
        values = torch.cat([sums, rest], dim) if count % 2 else sums
    return values.squeeze(dim)
