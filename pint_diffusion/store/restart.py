"""Where a run can be resumed: what is on disk, and whether it is the same run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import InputError
from pint_diffusion.methods.problem import Problem, Restart
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.store.description import options_text
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.facts import read_facts, read_settings
from pint_diffusion.store.manifest import Manifest, parts_of
from pint_diffusion.store.master import open_master, own_dataset
from pint_diffusion.store.part import RUN

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


def find(here: Directory, plan: Plan, identity: str) -> Found:
    """Find where to go on from, and delete what came after it. Rank 0 only.

    Raises
    ------
    InputError
        If the run was of another network, noise, grid, method or solver, or if its manifest can't
        be read or is that of another run.
    """
    folder = here.path
    grid, method, solver = plan.problem.grid, plan.method, plan.asked.solver
    _, master, _ = read_start(here)
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
    for name, ours in (
        ("method", method.name),
        ("options", options_text(method)),
        ("solver", solver.name),
        ("solver_options", options_text(solver)),
        *([("tolerance", method.tolerance)] if method.counts == "points" else []),
    ):
        if master[name] != ours:
            raise InputError(
                f"`{name}` is {ours!r}, and was {master[name]!r} in the run in {folder}: leave it "
                "as it was, or begin another run"
            )
    manifest = Manifest.read(here, master[RUN])
    manifest.extend()  # what became complete after it was written
    segment = 1 + max((part.segment for part in parts_of(here)), default=-1)
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


def fingerprint(networks: Sequence[Denoiser], noise: Tensor) -> str:
    """Digest of what networks are, their kinds and shapes and all weights they hold, and of noise.

    Parameters
    ----------
    networks : sequence of Denoiser
        Of the run.
    noise : Tensor, shape (S, *shape)
        What it begins with.
    """
    digest = hashlib.sha256(noise.cpu().numpy().tobytes())
    for network in networks:
        digest.update(repr((network.prediction, network.shape)).encode())
        for name, array in _arrays(network, 3):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _arrays(thing: Any, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(thing, Tensor):
        whole = thing.detach().cpu()
        yield "", (whole.float() if whole.dtype == torch.bfloat16 else whole).numpy()
    elif isinstance(thing, np.ndarray):
        yield "", thing
    elif isinstance(thing, torch.nn.Module):
        for name, weight in sorted(thing.state_dict().items()):
            yield from ((name, array) for _, array in _arrays(weight, 0))
    elif depth and hasattr(thing, "__dict__"):
        for name, part in sorted(vars(thing).items()):
            yield from ((f"{name}.{rest}", array) for rest, array in _arrays(part, depth - 1))


def read_start(folder: Directory) -> tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]:
    """Return configuration, facts and slice boundaries of a run; this runs no code that it names.

    Raises
    ------
    InputError
        If there is no run, or if its master file can't be read.
    """
    with open_master(folder) as file:
        facts = read_facts(file)
        config = read_settings(facts)
        grid = np.stack([own_dataset(file, f"grid/{name}")[:] for name in ("t", "alpha_bar")], 1)
        bounds = own_dataset(file, "grid/slices")[:]
    # The settings' own: without the steps of a corrector, which stay at a level.
    walked = np.concatenate([[0], np.cumsum(np.diff(grid[:, 1]) > 0)])
    bounds = tuple(dict.fromkeys(int(n) for n in walked[bounds]))
    return config, facts | {"levels": grid}, bounds
