"""The door of the library: objects in, a result out; no files, no prints, nothing of the process.

`sample` and `iterate` leave the process as they find it: they set no threads, devices, allocators
or signal handlers, and they raise where a program of its own would end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.build.coarse import Coarse
from pint_diffusion.build.plan import Batching, Plan, Sampling, make_plan
from pint_diffusion.errors import InputError, PintError, RunFailed, reason
from pint_diffusion.grid import Spacing, TimeGrid, read_grid
from pint_diffusion.methods import Method, Parareal
from pint_diffusion.models.conditional import condition
from pint_diffusion.models.denoiser import Denoiser, schedule_of
from pint_diffusion.models.factory import check_denoiser
from pint_diffusion.models.wrap import home_of
from pint_diffusion.output import Answers, Output, Watch
from pint_diffusion.result import Run
from pint_diffusion.run import PATIENCE, Steps, begin, refuse_differences, solve
from pint_diffusion.runtime.device import DTYPES, check_dtype, find_device
from pint_diffusion.runtime.world import Communicator, World, world_of
from pint_diffusion.solvers import DDIM, Solver
from pint_diffusion.solvers.langevin import Corrector


def sample(
    network: Denoiser,
    method: Method | None = None,
    solver: Solver | None = None,
    *,
    steps: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    spacing: Spacing | None = None,
    grid: TimeGrid | str | PathLike[str] | None = None,
    noise: Tensor | None = None,
    coarse: Coarse | Solver | int | Denoiser | None = None,
    corrector: Corrector | None = None,
    batching: Batching = "auto",
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    comm: Communicator = "auto",
    outputs: Iterable[Output | Watch] = (),
    gather: bool = False,
    verify: bool = False,
    watchdog: float | None = PATIENCE,
) -> Run:
    """Draw samples, parallel in time.

    Parameters
    ----------
    network : Denoiser
        What is evaluated: from `load_denoiser`, `from_diffusers`, `from_edm`, or of your own.
        Samples of a class-conditional network take all classes in turn, see `condition`.
    method : Method, optional
        How it is sampled; `Parareal` if not given.
    solver : Solver, optional
        Makes the fine steps; `DDIM` if not given.
    steps : int, optional
        Fine steps N; 64 if neither they nor a grid are given.
    samples : int, optional
        Number S of samples; as many as there is noise, or one.
    seed : int
        Seed of all noise. Noise is a function of it, the sample's number and the step.
    spacing : Spacing, optional
        Where the noise levels of the steps lie.
    grid : TimeGrid or path, optional
        The levels themselves, or a file with them, instead of steps and spacing.
    noise : Tensor, shape (S, *shape), optional
        Pure noise to begin with, the same on every rank, instead of what the seed gives.
    coarse : Coarse, Solver, int or Denoiser, optional
        How coarse solves are made; or their solver, their number of steps, or their network alone.
    corrector : Corrector, optional
        Langevin steps at slice boundaries.
    batching : {"auto", "off"} or int
        Evaluations in one network call: all that are ready; one, so that the bits are the same on
        any number of ranks; or at most so many.
    dtype : torch.dtype or str, optional
        Of the network; that of its weights if not given. States are kept in float32 or float64.
    device : torch.device or str, optional
        Where this rank computes. If not given, where the weights are; without weights the GPU with
        the rank's number on its host, or the CPU.
    comm : MPI communicator, "auto" or None
        The ranks that sample together, each of which makes this call. ``auto``: all ranks, if a
        launcher started the program, else this process. None: this process alone.
    outputs : iterable of Output or callable
        What is told of the run while it goes on: `Files`, `ProgressBar`, an `Output` of your own,
        or a function ``watch(k, answer, change)``, which rank 0 calls after each iteration and
        which ends the run by returning True.
    gather : bool
        Give the samples to every rank, and not to rank 0 alone.
    verify : bool
        Run the sequential sampler on rank 0 too, for `Run.sequential`.
    watchdog : float, optional
        Seconds of silence after which another rank is taken for lost; None: never.

    Returns
    -------
    Run
        Samples, and what it took.

    Raises
    ------
    InputError
        On every rank, before the first message, if an argument can't be used.
    RunFailed
        On every rank of several, if one fails. In one process, what made it fail is raised itself.
    TransportError
        If ranks have lost each other, or if one has fallen silent.
    """
    what = (network, method, solver, steps, samples, seed, spacing, grid, noise, coarse, corrector)
    plan, world = _plan(comm, batching, dtype, device, *what)
    memory = Answers()
    try:
        run = solve(plan, world, [memory, *outputs], verify, watchdog)
    except RunFailed as failed:
        raise _cause(failed, world) from None
    found = None if run.samples is None else run.samples.clone()
    if gather:
        given = world.share(None if found is None else found.cpu())
        found = given.to(plan.asked.device) if found is None and given is not None else found
    tables = world.gather(run.events)
    events = np.concatenate(tables) if world.rank == 0 else run.events
    return replace(run, samples=found, events=events, iterates=tuple(memory.answers))


def iterate(
    network: Denoiser,
    method: Method | None = None,
    solver: Solver | None = None,
    *,
    steps: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    spacing: Spacing | None = None,
    grid: TimeGrid | str | PathLike[str] | None = None,
    noise: Tensor | None = None,
    coarse: Coarse | Solver | int | Denoiser | None = None,
    corrector: Corrector | None = None,
    batching: Batching = "auto",
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    comm: Communicator = "auto",
    outputs: Iterable[Output | Watch] = (),
    gather: bool = False,
    watchdog: float | None = PATIENCE,
) -> Generator[tuple[int, Tensor], None, Run]:
    """Draw samples, and look at the answer of every iteration as soon as it is there.

    The run goes on between two turns of the loop that reads the answers, and no faster than the
    loop. Leaving the loop ends the run there, also on other ranks: the loop of rank 0 decides, and
    a rank that leaves its own loop earlier works on for the others until then.

    Parameters
    ----------
    network, method, solver, steps, samples, seed, spacing, grid, noise, coarse, corrector
        See `sample`.
    batching, dtype, device, comm, outputs, watchdog
        See `sample`.
    gather : bool
        Every rank gets every answer. Else rank 0 alone does, and the loops of the others have no
        turns: they end when the run does.

    Yields
    ------
    k : int
        Iteration.
    answer : Tensor, shape (S, *shape)
        The samples as far as they are known. They must not be changed in place.

    Returns
    -------
    Run
        The value of ``yield from``.

    Raises
    ------
    InputError
        As `sample`, at once.
    RunFailed, TransportError
        As `sample`, from the loop.
    """
    what = (network, method, solver, steps, samples, seed, spacing, grid, noise, coarse, corrector)
    plan, world = _plan(comm, batching, dtype, device, *what)
    return _turns(begin(plan, world, outputs, False, watchdog, everywhere=gather), world)


def _turns(steps: Steps, world: World) -> Generator[tuple[int, Tensor], None, Run]:
    """Yield the answers of a run under way; if nobody wants more, see to it that it ends well."""
    stop = False
    while True:
        try:
            k, answer = steps.send(stop or None)
        except StopIteration as end:
            run: Run = end.value
            return run
        except RunFailed as failed:
            raise _cause(failed, world) from None
        try:
            if not stop:
                yield k, answer.clone()
        except GeneratorExit:
            stop = True


def _cause(failed: RunFailed, world: World) -> BaseException:
    """Return what to raise where a run has failed: in one process there is no need to say where."""
    return failed if world.size > 1 or failed.__cause__ is None else failed.__cause__


def _plan(
    comm: Communicator,
    batching: Batching,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    *what: Any,
) -> tuple[Plan, World]:
    """Find the ranks and make their plan; what is wrong on one of them is raised on all."""
    world = world_of(comm)

    def make() -> Plan:
        try:
            return make_plan(_sampling(world, batching, dtype, device, *what), world.size)
        except PintError:
            raise
        except Exception as error:  # of an object that was given; the other ranks must hear of it
            if world.size == 1:
                raise
            raise RunFailed(reason(error)) from error

    plan = world.agree(make)
    refuse_differences(plan, world)
    return plan, world


def _sampling(
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
    """Say in full what is asked for.

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
