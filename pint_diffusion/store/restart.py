"""Where a run can be resumed: what is on disk, and whether it is the same run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import InputError
from pint_diffusion.methods.problem import Problem, Restart
from pint_diffusion.store.description import options_text
from pint_diffusion.store.manifest import Manifest, parts_of
from pint_diffusion.store.master import open_master, own_dataset, read_facts, read_settings

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The place at which a run can be resumed.

    Attributes
    ----------
    manifest : Manifest
        Complete iterations on disk.
    segment : int
        Number of the next segment.
    k : int or None
        Newest complete iteration; None: the run begins with the noise.
    """

    manifest: Manifest
    segment: int
    k: int | None


def find(folder: Path, plan: Plan, identity: str) -> Found:
    """Find where to go on from, and delete what came after it. Rank 0 only.

    Raises
    ------
    InputError
        If the run was of another network, noise, grid, method or solver, or if its manifest can't
        be read.
    """
    grid, method, solver = plan.problem.grid, plan.method, plan.asked.solver
    _, master, _ = read_start(folder)
    if master["fingerprint"] != identity:
        raise InputError(
            f"the network is not the one of the run in {folder}: its weights, its predictions or "
            "the noise differ, so begin another run"
        )
    levels = np.array([(level.t, level.alpha_bar) for level in grid.levels])
    if not np.array_equal(levels, master["levels"]):
        raise InputError(
            f"the noise levels are not those of the run in {folder}: the network's schedule or the "
            "grid file has changed, so begin another run"
        )
    for name, here in (
        ("method", method.name),
        ("options", options_text(method)),
        ("solver", solver.name),
        ("solver_options", options_text(solver)),
        *([("tolerance", method.tolerance)] if method.counts == "points" else []),
    ):
        if master[name] != here:
            raise InputError(
                f"`{name}` is {here!r}, and was {master[name]!r} in the run in {folder}: leave it "
                "as it was, or begin another run"
            )
    manifest = Manifest.read(folder)
    manifest.extend()  # what became complete after it was written
    segment = 1 + max((part.segment for part in parts_of(folder)), default=-1)
    problems: list[str] = []
    k = manifest.newest(problems)
    for problem in problems:
        LOG.info("%s; an earlier one is used", problem, extra={"rank": 0})
    manifest.go_back(-1 if k is None else k)
    return Found(manifest, segment, k)


def read_restart(manifest: Manifest, k: int, problem: Problem) -> Restart:
    """Read iteration ``k`` of a run.

    Raises
    ------
    StoreError
        If its parts can't be read here.
    """
    states = manifest.states(k, range(problem.columns + 1))

    def state(n: int) -> Tensor:
        return torch.from_numpy(states[n]).to(problem.noise.device)

    return Restart(k, state, [np.array(row) for row in manifest.changes[:k]])


def read_start(folder: Path) -> tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]:
    """Return configuration, facts and slice boundaries of a run."""
    if folder.is_file():
        raise InputError(f"{folder} is a file: give the folder of the run")
    with open_master(folder) as file:
        facts = read_facts(file)
        config = read_settings(facts)
        grid = np.stack([own_dataset(file, f"grid/{name}")[:] for name in ("t", "alpha_bar")], 1)
        bounds = own_dataset(file, "grid/slices")[:]
    # The settings' own: without the steps of a corrector, which stay at a level.
    walked = np.concatenate([[0], np.cumsum(np.diff(grid[:, 1]) > 0)])
    bounds = tuple(dict.fromkeys(int(n) for n in walked[bounds]))
    return config, facts | {"levels": grid}, bounds
