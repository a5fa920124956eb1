"""``pint-diffusion check``: every check, on every rank, and one table."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pint_diffusion.build.sizes import MORE_STATES
from pint_diffusion.commands.check.clocks import clocks
from pint_diffusion.commands.check.facts import Facts, Network, collect, first_line
from pint_diffusion.commands.check.files import files
from pint_diffusion.commands.check.finding import Finding, table
from pint_diffusion.commands.check.gpu_aware import gpu_aware
from pint_diffusion.commands.check.launcher import library
from pint_diffusion.commands.check.messages import overlap, speed
from pint_diffusion.commands.check.quick import judge
from pint_diffusion.commands.check.sizes import tensors_of
from pint_diffusion.commands.versions import versions
from pint_diffusion.errors import InputError
from pint_diffusion.memory import state_size
from pint_diffusion.methods import Parareal
from pint_diffusion.models import load_denoiser
from pint_diffusion.runtime.device import bind_device
from pint_diffusion.runtime.launcher import read_launcher
from pint_diffusion.runtime.talk import PATIENCE, Silence, Talk
from pint_diffusion.runtime.world import LocalWorld, World
from pint_diffusion.settings.check import Check

FLOAT32 = 4
"""Bytes of a number in a state."""

LOADING = 600.0
"""Seconds by which ranks may differ in importing the libraries and loading the network."""

PARTING = 5.0
"""Seconds in which rank 0 prints the table and ends a job that has lost a connection."""


def check(settings: Check, open_world: Callable[[str], World]) -> int:
    """Make the checks and print the table on rank 0; return 0, or 2 if a run would go wrong.

    Parameters
    ----------
    settings : Check
        The flags.
    open_world : callable
        Finds the processes for a transport's name.
    """
    findings = list(libraries())
    launcher = read_launcher()
    speaks = launcher is None or launcher.rank == 0
    world: World = LocalWorld()
    try:
        world = open_world("mpi")
    except InputError as error:
        found, _, to_do = str(error).partition(": ")
        if launcher is not None:
            findings.append(Finding("MPI", "fail", found, to_do))
            if speaks:
                print(table(findings), flush=True)
            return 2
        findings.append(Finding("MPI", "warn", f"none, one process only: {found}", to_do))
    talk = world.talk()
    if talk.thread_level != "none":
        findings += library(world, talk)
    try:
        for finding in look(settings, world, talk):
            findings.append(finding)
        cut_off = any(talk.gather(talk.cut_off))
    except Silence as silence:
        findings.append(lost(world, silence))
        cut_off = True
    if world.rank == 0:
        print(table(findings), flush=True)
    code = 2 if any(finding.level == "fail" for finding in findings) else 0
    if cut_off:  # a message is still under way: MPI would wait for it for ever
        if world.rank:
            time.sleep(PARTING)
            os._exit(2)
        world.abort(2)
    return code


def look(settings: Check, world: World, talk: Talk) -> Iterator[Finding]:
    """Make every check; yield the findings, the same on every rank.

    Raises
    ------
    Silence
        If ranks do not answer.
    """
    shape, network = load(settings, world)
    slices = settings.slices or world.size
    state = state_size(settings.samples, shape, FLOAT32) if shape else 0
    talk.gather(None, LOADING)  # every rank has loaded: what is free now is free for states
    held = Parareal().held_states(slices, slices, world.size, 0) + MORE_STATES
    mine = collect(world, settings.device, held * state, network)
    facts: list[Facts] = talk.gather(mine)
    hosts = [one.host for one in facts]
    yield from judge(facts, quick=False)
    yield from speed(talk, hosts)
    yield from overlap(talk, hosts)
    yield from clocks(talk, hosts)
    yield from files(talk, settings.out, hosts, (slices + 1) ** 2 * state)
    yield from gpu_aware(talk, facts)


def load(settings: Check, world: World) -> tuple[tuple[int, ...], Network | None]:
    """Load the network on this rank's device; return the shape of a sample, and its facts."""
    if settings.model is None:
        return (), None
    import torch

    try:
        device = bind_device(settings.device, world.local_rank)
    except InputError:
        return (), None  # `missing` reports it
    try:
        denoiser = load_denoiser(settings.model, device, torch.float32)
    except InputError as error:
        return (), Network(problem=str(error))
    except (RuntimeError, MemoryError) as error:
        return (), Network(problem=f"{settings.model} can't be loaded: {first_line(error)}")
    tensors = {tensor.data_ptr(): tensor for tensor in tensors_of(denoiser)}.values()
    current = f"cuda:{torch.cuda.current_device()}" if device.type == "cuda" else ""
    return denoiser.shape, Network(
        size=sum(math.prod(t.shape) * t.element_size() for t in tensors),
        devices=tuple(sorted({str(t.device) for t in tensors})),
        current=current,
    )


def libraries() -> Iterator[Finding]:
    """Yield the versions of the libraries that a run uses."""
    import h5py
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "no CUDA device"
    found = ", ".join([*versions(), f"HDF5 {h5py.version.hdf5_version}", cuda])
    yield Finding("libraries", "ok", found)
    yield Finding("program", "ok", str(Path(__file__).parents[2]))


def lost(world: World, silence: Silence) -> Finding:
    """Return the finding with the ranks that did not answer."""
    ranks = ", ".join(map(str, silence.ranks))
    found = f"rank(s) {ranks} did not answer rank {world.rank} within {PATIENCE:g} s"
    to_do = "look for that rank's host in the rows above and check it, or leave it out"
    return Finding("silence", "fail", found, to_do)
