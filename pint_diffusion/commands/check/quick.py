"""The checks that every run makes: two gathers, no other message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from pint_diffusion.build.sizes import MORE_STATES
from pint_diffusion.commands.check.cores import binding, cores, omp_threads
from pint_diffusion.commands.check.devices import missing, network, places, shared_gpus
from pint_diffusion.commands.check.facts import Facts, collect
from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.commands.check.launcher import world_size
from pint_diffusion.commands.check.memory import memory
from pint_diffusion.errors import InputError
from pint_diffusion.memory import state_size
from pint_diffusion.methods.method import Sliced
from pint_diffusion.models import peek
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.runtime.device import DTYPES
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.run import Settings

LOG = logging.getLogger(__name__)

Judge = Callable[[Sequence[Facts]], Iterator[Finding]]

JUDGES: dict[Judge, bool] = {
    world_size: True,
    places: False,
    missing: True,
    shared_gpus: True,
    network: False,
    cores: False,  # a run's summary says it
    binding: True,
    omp_threads: True,
    memory: True,
}
"""Checks that need the ranks' facts only -> whether every run makes them."""


def judge(facts: Sequence[Facts], quick: bool) -> list[Finding]:
    """Return the findings from gathered facts, the same on every rank."""
    skipped = {cores} if quick else {binding}  # `cores` includes `binding`
    judges = [one for one, always in JUDGES.items() if (always or not quick) and one not in skipped]
    return [finding for one in judges for finding in one(facts)]


def quick_check(
    settings: Settings, world: World, denoiser: Denoiser | None = None
) -> list[Finding]:
    """Find what would make a run wrong or slow, before a rank loads anything big.

    Parameters
    ----------
    settings : Settings
        The run.
    world : World
        Its processes; all of them call this function.
    denoiser : Denoiser, optional
        The network, if the caller has loaded it.

    Returns
    -------
    list of Finding
        Warnings and fails, the same on every rank.

    """
    weights, shape = (0, denoiser.shape) if denoiser is not None else peek(settings.model)
    dtype = DTYPES[settings.dtype]
    needed = weights * min(dtype.itemsize, 4) // 4
    state = state_size(settings.samples, shape, 8 if dtype == torch.float64 else 4)
    needed += held_of(settings, state, world.size) if shape else 0
    facts = world.gather(collect(world, settings.device, needed))
    return [finding for finding in judge(facts, quick=True) if finding.level != "ok"]


def held_of(settings: Settings, state: int, ranks: int) -> int:
    """Return the least bytes that a rank of a run holds; ``state`` are the bytes of one state."""
    method = settings.method
    steps = 1 if settings.grid else settings.steps  # the file has its own
    given = method.given_slices if isinstance(method, Sliced) else None
    slices = given or method.default_slices(steps, ranks)
    held = method.held_states(steps, min(slices, steps), ranks, settings.solver.history)
    return (held + MORE_STATES) * state


def refuse_or_warn(settings: Settings, world: World, denoiser: Denoiser | None = None) -> None:
    """Make the quick check; rank 0 logs the warnings.

    Raises
    ------
    InputError
        On every rank alike, if the run would go wrong.
    """
    findings = quick_check(settings, world, denoiser)
    for finding in findings:
        if finding.level == "fail":
            raise InputError(finding.sentence)
    if world.rank == 0:
        for finding in findings:
            LOG.warning(finding.sentence, extra={"rank": 0})
