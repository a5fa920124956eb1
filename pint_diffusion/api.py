"""The door of the library: objects in, a result out; no files, no prints, nothing of the process.

`sample` and `iterate` leave the process as they find it: they set no threads, devices, allocators
or signal handlers, and they raise where a program of its own would end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.build.agreement import refuse_differences
from pint_diffusion.build.coarse import Coarse
from pint_diffusion.build.from_objects import sampling_of_objects
from pint_diffusion.build.plan import Batching, Plan, make_plan, tell_doubt
from pint_diffusion.errors import PintError, RunFailed, reason
from pint_diffusion.grid import Spacing, TimeGrid
from pint_diffusion.methods import Method
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.output import Answers, Output, Watch
from pint_diffusion.result import Run
from pint_diffusion.run import SILENCE, Turns, begin, solve
from pint_diffusion.runtime.world import Communicator, World, world_of
from pint_diffusion.solvers import Solver
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
    watchdog: float | None = SILENCE,
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
    watchdog: float | None = SILENCE,
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


def _turns(turns: Turns, world: World) -> Generator[tuple[int, Tensor], None, Run]:
    """Yield the answers of a run under way; if nobody wants more, see to it that it ends well."""
    stop = False
    while True:
        try:
            k, answer = turns.send(stop or None)
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
            return make_plan(sampling_of_objects(world, batching, dtype, device, *what), world)
        except PintError:
            raise
        except Exception as error:  # of an object that was given; the other ranks must hear of it
            if world.size == 1:
                raise
            raise RunFailed(reason(error)) from error

    plan = world.agree(make)
    refuse_differences(plan, world)
    tell_doubt(plan, world.rank)
    return plan, world
