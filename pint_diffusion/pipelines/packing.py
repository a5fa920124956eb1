"""States of a loop as tensors of one shape, for methods and messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from pint_diffusion.pipelines.state import State
from pint_diffusion.pipelines.trees import leaves
from pint_diffusion.solvers.solver import Past


@dataclass(frozen=True)
class Packing:
    """How the states after the bodies of a loop are laid out: x (S, D), and H more such tensors.

    X is the sample that each step of a body has returned, side by side. The others hold what else
    was returned and what the scheduler remembers, one after another, and then zeros. Float16 and
    bfloat16 are kept as float32, which changes no bit.

    Attributes
    ----------
    rows : int
        S: the leading dimension of all tensors, or 1 if they have none in common.
    width : int
        D.
    history : int
        H, the most that a body needs.
    dtype : torch.dtype
        Float32, or float64 if any tensor is.
    """

    rows: int
    width: int
    history: int
    dtype: torch.dtype

    @classmethod
    def of(cls, states: Sequence[State]) -> Packing:
        """Find the layout for the states after all bodies."""
        split = [_split(state) for state in states]
        every = [one for samples, others in split for one in (*samples, *others)]
        leading = {one.shape[0] if one.ndim > 1 else 1 for one in every}
        rows = leading.pop() if len(leading) == 1 else 1
        width = sum(one.numel() for one in split[0][0]) // rows
        most = max(sum(one.numel() for one in others) for _, others in split)
        double = any(one.dtype == torch.float64 for one in every)
        dtype = torch.float64 if double else torch.float32
        return cls(rows, width, ceil(most / (rows * width)), dtype)

    def pack(self, state: State) -> tuple[Tensor, Past]:
        """Return x (S, D) and the H other tensors of a state."""
        samples, others = _split(state)
        x = self.beside(samples)
        if not self.history:
            return x, ()
        flat = [one.to(self.dtype).reshape(self.rows, -1) for one in others]
        joined = torch.cat(flat, dim=1) if flat else x.new_zeros((self.rows, 0))
        missing = self.history * self.width - joined.shape[1]
        return x, torch.nn.functional.pad(joined, (0, missing)).split(self.width, dim=1)

    def unpack(self, form: State, x: Tensor, past: Past) -> State:
        """Return a state of a form with these tensors; without ``past`` zeros stand for it."""
        samples, others = _split(form)
        first = iter(self.apart(x, samples))
        sizes = [one.numel() // self.rows for one in others]
        joined = torch.cat(past, dim=1) if past else x.new_zeros((self.rows, sum(sizes)))
        parts = joined[:, : sum(sizes)].split(sizes, dim=1) if sizes else ()
        second = (
            part.reshape(one.shape).to(one.dtype) for part, one in zip(parts, others, strict=True)
        )
        theirs = set(map(id, samples))
        return form.holding(
            [next(first) if id(one) in theirs else next(second) for one in form.tensors]
        )

    def parts(self, output: Tensor) -> list[Tensor]:
        """Return x, the H other tensors and eps of an output of `LoopEvaluator`, (n, D) each."""
        count = 2 + self.history
        return list(output[:, : count * self.width].split(self.width, dim=1))

    def said(self, output: Tensor) -> Tensor:
        """Return what an output of `LoopEvaluator` says that the scheduler was told, (S, D')."""
        return output[:, (2 + self.history) * self.width :]

    def beside(self, samples: Sequence[Tensor]) -> Tensor:
        """Return tensors of the shapes of the samples side by side, (S, D)."""
        flat = [one.to(self.dtype).reshape(self.rows, -1) for one in samples]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)

    def apart(self, x: Tensor, like: Sequence[Tensor], keep: bool = False) -> list[Tensor]:
        """Undo `beside`; ``keep`` the dtype of x."""
        parts = x.split([one.numel() // self.rows for one in like], dim=1)
        shaped = [part.reshape(one.shape) for part, one in zip(parts, like, strict=True)]
        return shaped if keep else [s.to(o.dtype) for s, o in zip(shaped, like, strict=True)]


def _split(state: State) -> tuple[list[Tensor], list[Tensor]]:
    """Return the samples that the steps have returned, and all other tensors, in their order."""
    samples = [leaves(one)[0] for one in state.returned]
    theirs = set(map(id, samples))
    return samples, [one for one in state.tensors if id(one) not in theirs]
