"""What a method in rounds says, and the sweep that most of them share.

A sweep makes new states of a window's points, of the steps from the states that were evaluated.
With X_j the state evaluated in slot j, and Phi_j the solver's own step from it with what the
network said there,

    new_{j+1} = Phi_j + J_j (new_j - X_j),

where J_j is the response of the step to a state that moves while the network's answer follows with
some slope: see `Responses`. Where no state has moved, new_{j+1} is the sequential sampler's to the
bit, whatever the slope.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.methods.problem import Remake
from pint_diffusion.numerics.levels import to_device
from pint_diffusion.numerics.sums import folded
from pint_diffusion.solvers import Propagator
from pint_diffusion.solvers.response import Responses, Slope


@dataclass(frozen=True)
class Seen:
    """What was seen of the windows of S samples, L slots at most; NaN where a window has no point.

    A state has 1 + H parts: x, and what the solver carries.

    Attributes
    ----------
    tables : Tables
        Of the walk.
    points : Tensor of int, shape (L, S)
        Grid point of every slot, N where a window has none.
    states : Tensor, shape (1 + H + E, L, S, *shape)
        Evaluated states X, and the E tensors that the method keeps with each.
    after : Tensor, shape (1 + H, L, S, *shape)
        Phi: the steps from these states.
    asked, x0, eps : Tensor, shape (L, S, *shape)
        State that the first evaluation of each step was of, and what was seen in it.
    variance : Tensor, optional
        See `Prediction`.
    remake : callable, optional
        Makes a step again, if that can be done: slot, state (1 + H, S, *shape) that it is made
        from, by how much x (S, *shape) has moved, slopes (S,) -> state after it.
    """

    tables: Tables
    points: Tensor
    states: Tensor
    after: Tensor
    asked: Tensor
    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None
    remake: Remake | None = None

    @property
    def parts(self) -> int:
        """1 + H."""
        return len(self.after)

    @property
    def slots(self) -> int:
        """L."""
        return self.states.shape[1]

    def column(self, values: Tensor) -> Tensor:
        """Shape values (..., S) as factors of states (..., S, *shape), in their dtype."""
        ones = [1] * (self.states.ndim - 3)
        return values.to(self.states.dtype).view(*values.shape, *ones)


@dataclass(frozen=True)
class Swept:
    """What a sweep has made.

    Attributes
    ----------
    states : Tensor, shape (1 + H, L + 1, S, *shape)
        New states of the points begin .. begin + L, the last one not evaluated yet.
    own : Tensor, shape (E, L, S, *shape)
        What the method keeps with those that were evaluated.
    settled : Tensor of int, shape (S,), or None
        Number of leading slots that have settled; None if the method asks for no such number.
    more : tuple of Tensor
        What the method needs to predict states ahead.
    """

    states: Tensor
    own: Tensor
    settled: Tensor | None
    more: tuple[Tensor, ...] = ()


class Sweep(Protocol):
    """A method in rounds. It keeps nothing from round to round.

    Attributes
    ----------
    extra_tensors : int
        E, tensors that it keeps with every state.
    predicts : bool
        Whether `ahead` predicts; else new points begin as copies of the last state known.
    """

    extra_tensors: int
    predicts: bool

    def reach(self, begin: int, evaluated: int) -> int:
        """Return the point before which a window ends that begins at ``begin``.

        The points before ``evaluated`` were evaluated; the window may reach beyond the walk.
        """
        ...

    def start(self, walk: Propagator, noise: Tensor, count: int) -> Tensor:
        """Return states (1 + H, count, S, *shape) of the first points; the first is ``noise``."""
        ...

    def __call__(self, seen: Seen) -> Swept:
        """Sweep."""
        ...

    def slide(self, begin: int, settled: int) -> int:
        """Return the number of points that a window slides by, at least 1 after L rounds."""
        ...

    def ahead(self, seen: Seen, swept: Swept, points: range, open_: Tensor | None) -> list[Tensor]:
        """Predict states beyond the first one that was not evaluated, if `predicts`.

        Parameters
        ----------
        seen, swept
            Of the round.
        points : range
            Steps that lead to such states.
        open_ : Tensor of bool, shape (len(points), S), or None
            Which samples make them; all of them if None.

        Returns
        -------
        list of Tensor, (1 + H, S, *shape) each
            States after each of the steps.
        """
        ...


class Copies:
    """For methods whose new points begin as copies of the last state known."""

    extra_tensors = 0
    predicts = False

    def start(self, walk: Propagator, noise: Tensor, count: int) -> Tensor:
        """Return copies of the noise; nothing is carried."""
        return torch.stack([bare(walk, noise)] * count, dim=1)

    def slide(self, begin: int, settled: int) -> int:
        """Return the number of points that have settled."""
        return settled

    def ahead(self, seen: Seen, swept: Swept, points: range, open_: Tensor | None) -> list[Tensor]:
        """Return nothing."""
        return []


def bare(walk: Propagator, x: Tensor) -> Tensor:
    """Make a state (1 + H, S, *shape) of x (S, *shape) that carries nothing."""
    return walk.bare(x)


class Tables:
    """Numbers of a walk's steps on the device, a row for each of N steps and one for no step.

    Parameters
    ----------
    walk : Propagator
        The walk.
    responses : Responses
        Of its steps.
    device : torch.device
        Where they go.
    """

    def __init__(self, walk: Propagator, responses: Responses, device: torch.device) -> None:
        self.walk = walk
        self.device = device
        self.responses = responses
        self._there: dict[Hashable, Tensor] = {}

    def put(self, name: Hashable, make: Callable[[], np.ndarray]) -> Tensor:
        """Return the numbers (N, ...) of some name on the device; they are made and copied once.

        They have a row of ones more, for where there is no step.
        """
        if name not in self._there:
            values = make()
            padded = np.concatenate([values, np.ones_like(values[:1])])
            self._there[name] = to_device(torch.from_numpy(padded), self.device)
        return self._there[name]

    @property
    def levels(self) -> Tensor:
        """A and s of every evaluation, (N + 1, 2, Q) float64."""
        return self.put("levels", lambda: np.stack([self.responses.a, self.responses.s], axis=1))

    @property
    def moves(self) -> Tensor:
        """Responses, see there, (N + 1, 2**Q, Q + 1 + H, 1 + H) float64."""
        return self.put("moves", lambda: self.responses.moves)

    def slopes(self, slope: Slope) -> Tensor:
        """Return a slope known beforehand at the first evaluation of every step, (N + 1,)."""
        levels = [levels[0] for levels in self.responses.levels]
        return self.put((slope, "slopes"), lambda: np.array([slope(level) for level in levels]))

    def frozen(self, slope: Slope) -> Tensor:
        """Responses of the state (N + 1, 1 + H, 1 + H) with a slope known beforehand."""
        stages = self.responses.stages
        return self.put(slope, lambda: self.responses.with_slope(slope)[:, stages:])


def difference_sweep(
    seen: Seen, response: Tensor | None, slopes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Make new states of the steps that were evaluated, point after point.

    Parameters
    ----------
    seen : Seen
        The windows.
    response : Tensor, shape (L, S, 1 + H, 1 + H), or None
        J of every step; 1 if None.
    slopes : Tensor, shape (L, S), optional
        Slope that it has been made of, for steps that can be made again: these need no J.

    Returns
    -------
    states : Tensor, shape (1 + H, L + 1, S, *shape)
        New states.
    moves : Tensor, shape (1 + H, L, S, *shape)
        By how much they differ from those evaluated.
    """
    old, after = seen.states[: seen.parts].unbind(1), seen.after.unbind(1)
    factors: tuple[Tensor, ...] = ()
    if response is not None:
        factors = seen.column(response.permute(0, 2, 3, 1).contiguous()).unbind()
    states, moves = [old[0]], []
    for j, (x, step) in enumerate(zip(old, after, strict=True)):
        move = states[-1] - x
        moves.append(move)
        if seen.remake is not None and slopes is not None:
            states.append(seen.remake(j, states[-1], move[0], slopes[j]))
            continue
        states.append(step + (folded(factors[j] * move, 1) if factors else move))
    return torch.stack(states, dim=1), torch.stack(moves, dim=1)


def leading(settled: Tensor) -> Tensor:
    """Count the leading slots that have settled, (L, S) -> (S,)."""
    return settled.long().cumprod(0).sum(0)
