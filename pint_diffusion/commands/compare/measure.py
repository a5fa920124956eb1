"""One run of the comparison, and how an entry is brought to a given error."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.build.from_settings import sampling_of
from pint_diffusion.build.plan import Plan, make_plan
from pint_diffusion.commands.compare.entries import Entry
from pint_diffusion.commands.silence import EndJob
from pint_diffusion.methods import Sequential
from pint_diffusion.methods.method import Method
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.output import Answers, Output
from pint_diffusion.run import solve
from pint_diffusion.runtime.events import EVALUATION_KINDS, EventLog
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.run import SamplingSettings

TRIES = 5
"""Runs that may be made to find a tolerance."""

CLOSE = 0.4
"""A tolerance is good enough if its error is between this share of the target and the target."""


@dataclass(frozen=True)
class Measured:
    """What one run took.

    Attributes
    ----------
    rounds : int
        Iterations or rounds.
    deep : int
        Longest chain of evaluations that depend on one another, if batches cost nothing.
    evaluations : int
        Network evaluations of all samples, without those that the answer did not need.
    held : int
        Tensors of the size of the samples that a checkpoint has: what is live between two rounds.
    bytes : int
        Sent by all ranks together.
    wall : float
        Seconds on these ranks.
    error : float
        Relative L2 error against the sequential samples.
    worst_sample : float
        Relative L2 error of the sample that is furthest off.
    worst : float
        Greatest difference of a value.
    mean : float
        Mean difference, with the data range stretched to [0, 255].
    tolerance : float or None
        Of the run; None where it was stopped after so many iterations.
    converged : bool
        By the method's own rule.
    in_a_row : list of int
        Evaluations that can be made at once, for each round and each stage of the solver's step.
    errors : list of float
        Relative L2 errors of the answers after iterations 0, 1, ...
    """

    rounds: int
    deep: int
    evaluations: int
    held: int
    bytes: int
    wall: float
    error: float
    worst_sample: float
    worst: float
    mean: float
    tolerance: float | None
    converged: bool
    in_a_row: list[int]
    errors: list[float]


class Bench:
    """Runs entries on one problem and measures them; every rank makes the same calls.

    Parameters
    ----------
    settings : SamplingSettings
        What all entries have in common; the network is loaded once.
    world : World
        The processes.
    denoiser : Denoiser, optional
        The network, instead of ``settings.model``.

    Raises
    ------
    InputError
        On every rank, if one of them can't use the settings.
    """

    def __init__(
        self, settings: SamplingSettings, world: World, denoiser: Denoiser | None = None
    ) -> None:
        self._world = world
        self._asked = world.agree(lambda: sampling_of(settings, Sequential(), world, denoiser))
        self.truth: Tensor | None = None
        self._done: dict[Method, Measured] = {}

    def plan(self, method: Method) -> Plan:
        """Build the problem of a method.

        Raises
        ------
        InputError
            On every rank, if it can't be solved by that method.
        """
        asked = dataclasses.replace(self._asked, method=method)
        return self._world.agree(lambda: make_plan(asked, self._world))

    def run(self, method: Method) -> Measured:
        """Run once; the first run is the sequential one, which the others are compared with.

        Raises
        ------
        PintError
            On every rank, if one of them fails in the run.
        """
        if method in self._done:
            return self._done[method]
        plan, world = self.plan(method), self._world
        problem, memory, held = plan.problem, Answers(), Held()
        run = solve(plan, world, [memory, held, EndJob(world)])
        k = run.iterations
        told = world.share([answer.cpu() for answer in memory.answers if answer is not None])
        if self.truth is None:
            self.truth = told[-1]
        live: Counter[int] = sum(world.gather(held.tensors), Counter())
        tallies = world.gather((run.sent_bytes, counts(run.events)))
        made = sum((one for _, one in tallies), Counter[tuple[int, int]]())
        low, high = problem.stop_rule.data_range
        differences = [(answer - self.truth).double() for answer in told]
        truth = self.truth.double()
        errors = [relative(difference, truth) for difference in differences]
        self._done[method] = Measured(
            rounds=k,
            deep=run.evaluations_deep,
            evaluations=run.evaluations,
            held=max(live.values()),
            bytes=sum(sent for sent, _ in tallies),
            wall=run.wall_time,
            error=errors[-1],
            worst_sample=max(map(relative, differences[-1], truth)),
            worst=float(differences[-1].abs().max()),
            mean=float(differences[-1].abs().mean()) * 255 / (high - low),
            tolerance=problem.tolerance,
            converged=run.converged,
            in_a_row=[made[key] for key in sorted(made)],
            errors=errors,
        )
        return self._done[method]

    def tune(self, entry: Entry, target: float, own: Measured) -> Measured | None:
        """Bring an entry to an error of at most ``target``, with as little work as can be found.

        Parameters
        ----------
        entry : Entry
            What is tuned.
        target : float
            Relative L2 error.
        own : Measured
            By its own rule.

        Returns
        -------
        Measured or None
            None if it was not reached in a few runs.
        """
        if entry.tuned == "iterations":
            return self._tune_iterations(entry, target, own)
        best, found = None, own
        for _ in range(TRIES):
            if found.error <= target and (best is None or found.evaluations < best.evaluations):
                best = found
            if CLOSE * target <= found.error <= target:
                break
            assert found.tolerance is not None
            ratio = 0.7 * target / found.error if found.error else 100.0
            tolerance = found.tolerance * min(max(ratio, 1e-2), 1e2)
            found = self.run(entry.method.model_copy(update={"tolerance": tolerance}))
        return best

    def _tune_iterations(self, entry: Entry, target: float, own: Measured) -> Measured | None:
        """Stop after the first iteration whose answer is near enough."""
        found = own
        while found.error > target:
            more = 2 * found.rounds
            found = self.run(stopped_at(entry.method, more))
            if found.rounds < more:
                break
        near = [k for k, error in enumerate(found.errors) if k and error <= target]
        if not near:
            return None
        found = self.run(stopped_at(entry.method, near[0]))
        return dataclasses.replace(found, tolerance=None)


def stopped_at(method: Method, iterations: int) -> Method:
    """Return a method that goes on for so many iterations, whatever moves."""
    return method.model_copy(update={"tolerance": 0.0, "max_iterations": iterations})


def relative(difference: Tensor, truth: Tensor) -> float:
    """Return the L2 norm of a difference, in that of the truth; 0 / 0 is 0."""
    norm, size = float(difference.norm()), float(truth.norm())
    return norm / size if size else inf if norm else 0.0


class Held(Output):
    """Counts the tensors of the checkpoint of each iteration that this rank keeps."""

    def __init__(self) -> None:
        self.tensors: Counter[int] = Counter()

    def state(self, n: int, k: int, state: Tensor | None) -> None:
        """Count those of a column."""
        self.tensors[k] += 0 if state is None else len(state)


def counts(table: NDArray[Any]) -> Counter[tuple[int, int]]:
    """Evaluations of this rank by iteration, and by their place in the step of a column."""
    made = table[np.isin(table["kind"], EVALUATION_KINDS)]
    steps = Counter(zip(made["iteration"].tolist(), made["slice"].tolist(), strict=True))
    return Counter((k, stage) for (k, _), stages in steps.items() for stage in range(stages))


def call_costs(plan: Plan, largest: int) -> dict[int, float]:
    """Seconds of a network call with 1, 2, 4, ... evaluations of all samples, best of three.

    What a call is delayed by other work is not the network's: no call costs more than a larger one.
    """
    from pint_diffusion.runtime.requests import Ask

    problem, costs = plan.problem, {}
    ask = Ask("fine", 0, 0)(problem.noise, problem.grid.levels[problem.grid.steps // 2])
    rows = 1
    while True:
        costs[rows] = min(_seconds(plan, [ask] * rows) for _ in range(3))
        if rows >= largest:
            return {size: min(costs[more] for more in costs if more >= size) for size in costs}
        rows *= 2


def _seconds(plan: Plan, asks: list[Any]) -> float:
    log = EventLog(0)
    plan.evaluators[0](asks)
    if plan.problem.noise.device.type == "cuda":
        torch.cuda.synchronize()
    return log.now()
