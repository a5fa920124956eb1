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
        odd = values.narrow(dim, count - 1, 1) if count % 2 else None
        low, high = (values if odd is None else values.narrow(dim, 0, count - 1)).chunk(2, dim)
        values = low + high if odd is None else torch.cat([low + high, odd], dim)
    return values.squeeze(dim)


def mean_square(x: Tensor, dims: int) -> Tensor:
    """Mean of the squares over all but the first ``dims`` dimensions, in float64."""
    x = x.double().flatten(dims)
    return folded(x * x, dims) / x.shape[dims]
