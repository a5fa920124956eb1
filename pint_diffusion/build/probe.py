"""What is tried of a network before a run: its rows do not touch, and ranks get the same answers.

A network is called twice: with a few rows, and with these rows at other places of a larger call,
among others at other noise levels. Kernels are chosen by the number of rows, so the two answers
differ by rounding, and nobody knows how a network rounds inside. Where they differ by more than
the dtype explains, two more calls tell rounding from dependence. Kernels do not look at values:
the same row at the same place of a call of the same size has the same bits, whoever is beside it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.build.agreement import odd_one
from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import InputError, NetworkError, NetworkRaisedError
from pint_diffusion.grid import Level
from pint_diffusion.models.conditional import Conditioned
from pint_diffusion.models.denoiser import in_turn
from pint_diffusion.runtime.device import rounding
from pint_diffusion.runtime.requests import Ask
from pint_diffusion.runtime.world import World

LOG = logging.getLogger(__name__)

PLACE, SIZE = 0.03, 0.1
"""Difference, in the size of the answer, that rounding may make between two places of a call, and
between calls of two sizes, however a network rounds inside."""

RANKS = 0.03
"""Difference of two ranks' answers, whose devices may have other kernels."""

ENTRIES = 256
"""Numbers that are compared at least, where there are so many samples; and at least two rows."""

VIEWS, VIEWED = 8, 8
"""Numbers that tell other ranks what the answer to a row is, and rows of which they are told."""

TRUST = "or give `trust_rows` to run it as it is"

_passed: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()


class Case(NamedTuple):
    """Rows of two calls.

    Attributes
    ----------
    few, rows : int
        Rows of the smaller call and of the larger one.
    kept : list of int
        Rows of the smaller call that are in the larger one too.
    at : list of int
        Their places there.
    """

    few: int
    rows: int
    kept: list[int]
    at: list[int]


def cases(samples: int, entries: int, turns: bool, one_size: bool) -> list[Case]:
    """Return what is tried, the next one where the network can't be called with so few rows.

    Parameters
    ----------
    samples, entries : int
        S, and the numbers in a row.
    turns : bool
        Row r belongs to sample r modulo S.
    one_size : bool
        Every call of the run has S rows.
    """
    if turns and not one_size:
        return [Case(samples, 2 * samples, [*range(samples)], [*range(samples, 2 * samples)])]
    few = min(samples, max(2, ENTRIES // entries))
    rows = samples if one_size else max(samples, 2 * few)
    moved = Case(rows, rows, [0], [rows - 1])
    if turns:  # a row has its place, but not its neighbours
        return [Case(rows, rows, [*range(0, rows, 2)], [*range(0, rows, 2)])]
    turned = [rows - 1 - row for row in range(few)]
    return [moved] if one_size else [Case(few, rows, [*range(few)], turned), moved]


class Probe:
    """Tries one network of a run.

    Parameters
    ----------
    plan : Plan
        The run.
    network : int
        Number of the network.
    """

    def __init__(self, plan: Plan, network: int) -> None:
        self.evaluator = plan.evaluators[network]
        self.told = "the coarse network" if network else "the network"
        self._ask = Ask("fine", 0, 0, network)
        self._noise = plan.problem.noise
        low, high = self.evaluator.denoiser.data_range
        self._centre = (high + low) / 2
        natural = self.evaluator.denoiser.prediction in ("sample", "denoised")
        self._unit = (high - low) / 2 if natural else 1.0
        self._limit = rounding(self.evaluator.dtype, self.evaluator.device)
        self._turns, self._one_size = in_turn(self.evaluator.denoiser), plan.batch_limit == 1

    # ------------------------------------------------------------------ what has passed before

    @property
    def _key(self) -> tuple[Any, Any]:
        """The object that is remembered, and as what it has passed."""
        evaluator = self.evaluator
        network: Any = evaluator.denoiser
        if isinstance(network, Conditioned):  # each run has its own
            network = network.network
        return network, (evaluator.dtype, evaluator.device, self._turns, self._one_size)

    def remembered(self) -> bool:
        """Return whether the network has passed in this process."""
        network, how = self._key
        try:
            return how in _passed.get(network, ())
        except TypeError:  # an object that nobody can remember
            return False

    def remember(self) -> None:
        """Remember that the network has passed."""
        network, how = self._key
        try:
            _passed.setdefault(network, set()).add(how)
        except TypeError:
            return

    # ------------------------------------------------------------------ calls

    def answers(self) -> Tensor | None:
        """Try the network; return its answers to some rows, or None if it failed.

        Returns
        -------
        Tensor, shape (rows, numbers in an answer)
            On the network's device.

        Raises
        ------
        InputError
            If an answer depends on more than its row.
        """
        samples, *shape = self._noise.shape
        for case in cases(samples, math.prod(shape), self._turns, self._one_size):
            try:
                return self._tried(case)
            except (NetworkError, NetworkRaisedError) as error:
                LOG.debug("%s could not be tried with %s: %s", self.told, case, error)
        return None

    def _tried(self, case: Case) -> Tensor:
        together = self._look(case, self._others(case.rows))
        alone = self._look(case)
        apart = self._apart(alone[case.kept], together[case.at])
        if apart > self._limit:
            self._refuse_what_is_no_rounding(case, alone, together, apart)
        return alone

    def _refuse_what_is_no_rounding(
        self, case: Case, alone: Tensor, together: Tensor, apart: float
    ) -> None:
        again = self._apart(alone, self._look(case))
        if again > self._limit:
            raise InputError(
                f"{self.told} answers the same rows in another way each time, by {again:.2g} of "
                "the answer's size: it draws random numbers, or remembers what it was asked; put "
                f"it into evaluation mode (eval()) and leave noise to the solver, {TRUST}"
            )
        x, levels = self._alone(case.few)
        if not self._turns:
            case = case._replace(kept=case.kept[:1], at=case.at[:1])
        first = case.kept[0]
        copies = x[first].expand(case.rows, *x.shape[1:]).clone(), [levels[first]] * case.rows
        among = self._look(case, copies)
        beside = self._apart(together[case.at], among[case.at])
        if beside > self._limit:
            raise InputError(
                f"{self.told} answers a row in another way when other rows stand beside it, by "
                f"{beside:.2g} of the answer's size, and a call holds rows of several steps: put "
                "BatchNorm into evaluation mode (eval()), and take no mean, norm or noise level "
                f"from other rows, {TRUST}"
            )
        if not self._turns:
            place = self._apart(among, among[case.at].expand_as(among))
            self._refuse_above(PLACE, place, "at another place of a call")
        self._refuse_above(SIZE, apart, f"among {case.rows} rows than among {case.few}")

    def _refuse_above(self, limit: float, apart: float, where: str) -> None:
        if apart > max(limit, self._limit):
            raise InputError(
                f"{self.told} answers a row in another way {where}, by {apart:.2g} of the answer's "
                "size: an answer must not depend on the number of a row or of the rows, since a "
                f"call holds rows of several steps, {TRUST}"
            )

    def _look(self, case: Case, others: tuple[Tensor, list[Level]] | None = None) -> Tensor:
        """Call the network with the rows of a case alone, or in their places among others."""
        x, levels = self._alone(case.few)
        if others is not None:
            kept = [levels[row] for row in case.kept]
            among, levels = others
            among[case.at] = x[case.kept]
            x = among
            for row, level in zip(case.at, kept, strict=True):
                levels[row] = level
        samples = len(self._noise) if self._turns else len(x)
        blocks = zip(x.split(samples), range(0, len(x), samples), strict=True)
        asked = [self._ask.rows(part, levels[at : at + samples]) for part, at in blocks]
        seen = self.evaluator(asked)
        self.evaluator.check()
        return torch.cat([one.output for one in seen if one.output is not None]).flatten(1)

    def _alone(self, count: int) -> tuple[Tensor, list[Level]]:
        """Return the first rows, in the middle of the walk and at its start, in turn."""
        levels = self.evaluator.grid.levels
        return self._states(
            1.0, [levels[(len(levels) - 1) // 2 * (r % 2 == 0)] for r in range(count)]
        )

    def _others(self, count: int) -> tuple[Tensor, list[Level]]:
        """Return other rows, from the start of the walk to its last step."""
        levels = self.evaluator.grid.levels
        return self._states(-0.6, [levels[r * (len(levels) - 1) // count] for r in range(count)])

    def _states(self, sign: float, levels: list[Level]) -> tuple[Tensor, list[Level]]:
        """Noise the centre of the data to some levels."""
        noise = sign * self._noise[torch.arange(len(levels)) % len(self._noise)]
        a, s = (
            torch.tensor(values, dtype=noise.dtype, device=noise.device)
            .view(-1, *[1] * (noise.ndim - 1))
            for values in ([level.a for level in levels], [level.s for level in levels])
        )  # fmt: skip
        return a * self._centre + s * noise, levels

    def _size(self, answers: Tensor) -> Tensor:
        """Root mean square of each row, at least the natural unit of the prediction."""
        return answers.square().mean(dim=1).sqrt().clamp(min=self._unit)

    def _apart(self, one: Tensor, other: Tensor) -> float:
        """Return how far answers to the same rows are apart, in their size; the farthest pair."""
        one, other = one.double(), other.double()
        between = (one - other).square().mean(dim=1).sqrt()
        return float((between / self._size(one)).max())

    # ------------------------------------------------------------------ ranks

    def views(self, answers: Tensor) -> NDArray[np.float64]:
        """Return what other ranks are told of answers: projections of some rows, and their sizes.

        Returns
        -------
        array, shape (rows, VIEWS + 1)
        """
        seen = answers[:VIEWED].double()
        entries = seen.shape[1]
        drawn = torch.empty(entries, dtype=torch.uint8)
        drawn = drawn.random_(generator=torch.Generator().manual_seed(0)).to(seen.device)
        views = [(seen * (1 - 2.0 * (drawn >> one & 1))).sum(dim=1) for one in range(VIEWS)]
        scaled = torch.stack(views, dim=1) / entries**0.5
        return torch.cat([scaled, self._size(seen)[:, None]], dim=1).cpu().numpy()

    def refuse_other_answers(
        self, hosts: Sequence[str], seen: Sequence[NDArray[np.float64] | None]
    ) -> None:
        """Refuse a network whose answers are not the same on all ranks.

        Parameters
        ----------
        hosts : sequence of str
            Host of each rank.
        seen : sequence of array or None
            `views` of each rank.

        Raises
        ------
        InputError
            Naming the rank.
        """
        limit = max(RANKS, 2 * self._limit)

        def near(one: NDArray[np.float64] | None, other: NDArray[np.float64] | None) -> bool:
            if one is None or other is None or one.shape != other.shape:
                return True
            between = np.abs(one - other)[:, :-1] / np.maximum(one, other)[:, -1:]
            return bool(between.max() <= limit)

        if odd := odd_one(seen, near):
            raise InputError(
                f"{self.told} of rank {odd.rank} on {hosts[odd.rank]} answers the same rows in "
                f"another way than that of {odd.others}, though the weights that were found are "
                "the same: give all ranks the same files and libraries, by absolute paths, and "
                "set a seed where it draws numbers"
            )


def refuse_dependent_rows(plan: Plan, world: World) -> None:
    """Try the networks of a run, on every rank; those that have passed in this process, no more.

    A network that fails while it is tried is left to the run, which says where it failed.

    Parameters
    ----------
    plan : Plan
        The run.
    world : World
        Its ranks; all of them make this call.

    Raises
    ------
    InputError
        On every rank: if the answer to a row depends on other rows, on its place or on chance, or
        if ranks get other answers than other ranks.
    """
    probes = [Probe(plan, network) for network in range(len(plan.evaluators))]
    if all(world.gather(all(probe.remembered() for probe in probes))):
        return
    answers = world.agree(lambda: [probe.answers() for probe in probes])
    if world.size > 1:
        views = [
            None if one is None else probe.views(one)
            for probe, one in zip(probes, answers, strict=True)
        ]
        hosts, seen = zip(*world.gather((world.host, views)), strict=True)
        for probe, of_ranks in zip(probes, zip(*seen, strict=True), strict=True):
            probe.refuse_other_answers(hosts, of_ranks)
    for probe, one in zip(probes, answers, strict=True):
        if one is not None:
            probe.remember()
