"""The command ``pint-diffusion compare``."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pint_diffusion.build.agreement import refuse_differences
from pint_diffusion.build.plan import Plan
from pint_diffusion.build.probe import refuse_dependent_rows
from pint_diffusion.commands.compare.entries import Entry, entries
from pint_diffusion.commands.compare.measure import Bench, Measured, call_costs
from pint_diffusion.commands.compare.table import Row, draw, render, write_files
from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.methods import Sequential
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.report.bound import barrier_depth
from pint_diffusion.runtime.device import set_precision, set_threads
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.compare import Compare
from pint_diffusion.solvers.linear import try_walk

LOG = logging.getLogger(__name__)

LARGEST_CALL = 64
"""Evaluations in the largest call whose cost is measured; beyond, it grows in proportion."""

FILES = ("compare.csv", "compare.json", "compare.png")
"""What is written."""

CURVE = (1, 2, 4, 8, 16, 32, 64, 128)
"""Device counts of the figure."""


def compare(settings: Compare, world: World, denoiser: Denoiser | None = None) -> list[Row]:
    """Run every entry by its own rule and at equal error; write and print what it took.

    Parameters
    ----------
    settings : Compare
        What is compared, the same on every rank.
    world : World
        The processes.
    denoiser : Denoiser, optional
        The network, instead of ``settings.model``.

    Raises
    ------
    InputError
        On every rank, before anything is run, if the settings are wrong; after the sequential run,
        if they fit none of the methods.
    StoreError
        If the files can't be written.
    """
    cores = world.host_cores()
    world.agree(
        lambda: set_threads(settings.threads, settings.batching == "off", cores, world.local_size)
    )
    set_precision(settings.tf32, settings.attention)
    bench = Bench(settings, world, denoiser)
    common = bench.plan(Sequential(**settings.division))
    refuse_differences(common, world, settings.to_yaml())
    if not settings.trust_rows:
        refuse_dependent_rows(common, world)
    steps = common.problem.grid.steps
    which = settings.methods, settings.devices, steps, settings.division
    wanted = world.agree(lambda: entries(*which))
    world.agree(lambda: make_folder(settings.out, settings.force) if world.rank == 0 else None)
    costs = world.share(
        world.agree(lambda: call_costs(common, LARGEST_CALL) if world.rank == 0 else None)
    )
    assert costs is not None
    rows: list[Row] = []
    refused: InputError | None = None
    for entry in wanted:
        try:
            plan = bench.plan(entry.method)
        except InputError as error:
            refused = error
            if world.rank == 0:
                LOG.warning("%s is left out: %s", entry.name, error, extra={"rank": 0})
            continue
        if world.rank == 0:
            print(f"{entry.name} ...", file=sys.stderr, flush=True)
        own = bench.run(entry.method)
        ways: list[tuple[str, Measured | None]] = [("own", own)]
        if entry.tuned != "nothing":
            ways.append(("equal error", bench.tune(entry, settings.target, own)))
        for rule, found in ways:
            rows.append(row_of(entry, rule, found, plan, costs, settings.devices))
    if refused is not None and len(rows) == 1:  # the sequential one
        raise refused

    def write() -> None:
        about = {
            "steps": steps, "samples": settings.samples, "ranks": world.size,
            "target": settings.target, "seconds_per_call": costs, "settings": settings.to_yaml(),
        }  # fmt: skip
        print(render(rows, settings.devices))
        try:
            write_files(rows, about, settings.out)
            draw(rows, steps, settings.target, settings.out / FILES[-1])
        except OSError as error:
            raise StoreError(f"{settings.out} could not be written: {error.strerror}") from None
        print(f"{', '.join(FILES)} are in {settings.out}/", flush=True)

    world.agree(lambda: write() if world.rank == 0 else None)
    return rows


def make_folder(folder: Path, force: bool) -> None:
    """Make the folder of a comparison, or take one that may be written over."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not force and any(folder.iterdir()):
            raise InputError(
                f"`out` {folder} is not empty: give another folder, or `force` to overwrite the "
                "comparison in it"
            )
        for name in FILES:
            (folder / name).write_bytes(b"")
            (folder / name).unlink()  # there is no comparison yet
    except OSError as error:
        raise InputError(f"`out` {folder} can't be written: {error.strerror}") from None


def row_of(
    entry: Entry,
    rule: str,
    found: Measured | None,
    plan: Plan,
    costs: Mapping[int, float],
    devices: Sequence[int],
) -> Row:
    """Add what is counted and not run: barriers, and the time on other device counts."""
    tuned = entry.tuned != "nothing"
    if found is None:
        return Row(entry.name, rule, None, {}, tuned)
    problem = plan.problem
    counts = sorted({*CURVE, *devices})
    if not entry.pipelined:
        steps, coarse = try_walk(problem.fine, "fine"), try_walk(problem.coarse, "coarse")
        deep = barrier_depth(steps, coarse, found.rounds)
        return Row(entry.name, rule, dataclasses.replace(found, deep=deep, wall=0.0), {}, tuned)
    taken = problem, found.rounds, found.in_a_row, costs
    times = {p: plan.method.seconds_on(p, *taken) for p in counts}
    known = {p: seconds for p, seconds in times.items() if seconds is not None}
    return Row(entry.name, rule, found, known, tuned)
