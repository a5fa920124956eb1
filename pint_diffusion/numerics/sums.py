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
        low, high, *odd = values.split(count // 2, dim)
        values = low + high
        if odd:
            first, others = values.split([1, count // 2 - 1], dim)
            values = torch.cat([first + odd[0], others], dim) if count > 3 else first + odd[0]
    return values.squeeze(dim)


def mean_square(x: Tensor, dims: int) -> Tensor:
    """Mean of the squares over all but the first ``dims`` dimensions, in float64."""
    x = x.double().flatten(dims)
    return folded(x * x, dims) / x.shape[dims]
