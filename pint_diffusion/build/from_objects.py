"""From the arguments of a call, objects and what may stand for them, to what is asked for."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pint_diffusion.build.coarse import Coarse
from pint_diffusion.build.plan import Batching, Sampling
from pint_diffusion.build.sizes import refuse_large_states
from pint_diffusion.errors import InputError
from pint_diffusion.grid import Spacing, TimeGrid, read_grid
from pint_diffusion.methods import Method, Parareal
from pint_diffusion.models.conditional import condition
from pint_diffusion.models.denoiser import Denoiser, schedule_of
from pint_diffusion.models.factory import check_denoiser
from pint_diffusion.models.wrap import home_of
from pint_diffusion.runtime.device import DTYPES, check_dtype, find_device
from pint_diffusion.runtime.world import World
from pint_diffusion.solvers import DDIM, Solver
from pint_diffusion.solvers.langevin import Corrector


def sampling_of_objects(
    world: World,
    batching: Batching,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    network: Denoiser,
    method: Method | None,
    solver: Solver | None,
    steps: int | None,
    samples: int | None,
    seed: int,
    spacing: Spacing | None,
    grid: TimeGrid | str | PathLike[str] | None,
    noise: Tensor | None,
    coarse: Coarse | Solver | int | Denoiser | None,
    corrector: Corrector | None,
) -> Sampling:
    """Say in full what is asked for; the arguments are those of `pint_diffusion.sample`.

    Raises
    ------
    InputError
        If an argument is not what it must be.
    """
    _check("method", method, Method)
    _check("solver", solver, Solver)
    _check("spacing", spacing, Spacing)
    _check("corrector", corrector, Corrector)
    _check("noise", noise, Tensor)
    _check_network("network", network)
    for name, count in (("steps", steps), ("samples", samples)):
        if count is not None and (type(count) is not int or count < 1):
            raise InputError(f"`{name}` is {count!r}, but must be a whole number of 1 or more")
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise InputError(f"`seed` is {seed!r}, but must be a whole number from 0 to 2**64 - 1")
    if batching not in ("auto", "off") and (type(batching) is not int or batching < 1):
        raise InputError(f"`batching` is {batching!r}, but must be 'auto', 'off' or 1 or more")
    if samples is None:
        samples = 1 if noise is None else len(noise)
    found, kind = _home(network, device, dtype, world.local_rank)
    refuse_large_states(samples, network.shape, kind, found, world)
    network = condition(network, None, samples)
    if grid is not None and not isinstance(grid, TimeGrid):
        levels, bounds = read_grid(Path(grid), schedule_of(network))
        grid = TimeGrid(levels, bounds or (0, len(levels) - 1))
    return Sampling(
        network=network,
        method=method or Parareal(),
        solver=solver or DDIM(),
        coarse=_coarse(coarse, samples),
        corrector=corrector or Corrector(),
        steps=steps,
        spacing=spacing or Spacing(),
        grid=grid,
        samples=samples,
        seed=seed,
        noise=noise,
        batching=batching,
        device=found,
        dtype=kind,
    )


def _check(name: str, given: Any, kind: type) -> None:
    if given is not None and not isinstance(given, kind):
        hint = f": call it, {given.__name__}()" if isinstance(given, type) else ""
        raise InputError(f"`{name}` is {given!r}, which is no {kind.__name__}{hint}")


def _check_network(name: str, network: Any) -> None:
    try:
        check_denoiser(network)
    except InputError as error:
        raise InputError(
            f"`{name}` is a {type(network).__name__} and no usable denoiser: {error}; see "
            "load_denoiser, from_diffusers and from_edm"
        ) from None


def _coarse(coarse: Any, samples: int) -> Coarse:
    """Return how coarse solves are made, of what was given instead."""
    if coarse is None:
        return Coarse()
    if isinstance(coarse, Coarse):
        given = coarse
    elif isinstance(coarse, Solver):
        given = Coarse(solver=coarse)
    elif isinstance(coarse, int):
        given = Coarse(steps=coarse)
    else:
        given = Coarse(model=coarse)
    if given.model is None:
        return given
    _check_network("coarse", given.model)
    options = {name: getattr(given, name) for name in given.stated()}
    return Coarse(**{**options, "model": condition(given.model, None, samples)})


def _home(
    network: Denoiser,
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
    local_rank: int,
) -> tuple[torch.device, torch.dtype]:
    """Return device and dtype of a network: its own, or what was asked for if it has none.

    Raises
    ------
    InputError
        If it has others than those asked for, or if these can't be used here.
    """
    own, kind = home_of(network)
    try:
        found = None if device is None else torch.device(device)
    except RuntimeError:
        raise InputError(f"`device` is {device!r}, which torch does not know") from None
    if own is None:
        if found is None or (found.type == "cuda" and found.index is None):
            found = find_device("auto" if found is None else "cuda", local_rank)
    elif found is None or (found.type == own.type and found.index is None):
        found = own
    elif found != own:
        raise InputError(f"`device` is {found}, but the network is on {own}: move it there first")
    name = str(dtype if dtype is not None else kind or torch.float32).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"`dtype` is {name}, but must be one of {', '.join(DTYPES)}")
    if kind is not None and DTYPES[name] != kind:
        was = str(kind).removeprefix("torch.")
        raise InputError(f"`dtype` is {name}, but that of the network is {was}: cast it first")
    return found, check_dtype(name, found)
