"""``pint-diffusion check``: what runs where, and what is wrong with it, in words."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata

import numpy as np

from pint_diffusion.errors import InputError
from pint_diffusion.runtime.device import bind_device, usable_cores
from pint_diffusion.runtime.world import World, read_launcher

LIBRARIES = ("torch", "numpy", "h5py", "mpi4py", "mpich", "diffusers", "safetensors")
BIG_MESSAGE = 1 << 20
ROUNDS = 50


@dataclass
class Findings:
    """What was found, as lines to print, and what is wrong, as sentences."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def say(self, name: str, what: str) -> None:
        """Add a line."""
        self.lines.append((name, what))


def check(open_world: Callable[[str], World]) -> int:
    """Print what was found on rank 0; return 0, or 2 if a run would go wrong.

    Parameters
    ----------
    open_world : callable
        Finds the processes for a transport's name.
    """
    found = Findings()
    launcher = read_launcher()
    speaks = launcher is None or launcher.rank == 0
    found.say("launcher", f"{launcher.name}, {launcher.size} processes" if launcher else "none")
    try:
        world = open_world("mpi")
        _describe_mpi(world, found)
    except InputError as error:
        if launcher is None:
            found.say("MPI", f"not usable: {error}")
            world = World()
        else:
            found.problems.append(str(error))
            world = World(rank=launcher.rank)
    _describe_devices(world, found)
    _describe_libraries(found)
    if speaks:
        width = max(len(name) for name, _ in found.lines)
        for name, what in found.lines:
            print(f"{name:<{width}}  {what}")
        for problem in found.problems:
            print(f"\nwrong: {problem}")
        print("\nnothing is wrong" if not found.problems else "", flush=True)
    world.barrier()
    return 2 if found.problems else 0


def _describe_mpi(world: World, found: Findings) -> None:
    from mpi4py import MPI

    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    found.say("MPI library", MPI.Get_library_version().splitlines()[0].strip("\x00 "))
    found.say("MPI thread level", levels[MPI.Query_thread()])
    found.say("MPI ranks", str(world.size))
    for peer in sorted({1, world.size - 1} & set(range(1, world.size))):
        timed = _ping_pong(world, peer)
        if timed is not None:
            latency, seconds = timed
            found.say(
                f"ping-pong 0 - {peer}",
                f"{latency * 1e6:.0f} us one way, {BIG_MESSAGE / seconds / 1e9:.1f} GB/s",
            )


def _ping_pong(world: World, peer: int) -> tuple[float, float] | None:
    """One-way seconds of a byte and of `BIG_MESSAGE` bytes, on rank 0; the data is compared."""
    assert world.comm is not None
    medians = []
    if world.rank in (0, peer):
        other = peer - world.rank
        for size in (1, BIG_MESSAGE):
            pattern = np.arange(size, dtype=np.uint8)
            buffer = pattern.copy()
            times = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                if world.rank == 0:
                    world.comm.Send(buffer, other)
                    world.comm.Recv(buffer, other)
                else:
                    world.comm.Recv(buffer, other)
                    world.comm.Send(buffer, other)
                times.append((time.perf_counter() - start) / 2)
            if not np.array_equal(buffer, pattern):
                raise InputError(f"a message between ranks 0 and {peer} came back changed")
            medians.append(float(np.median(times)))
    world.barrier()
    return (medians[0], medians[1]) if world.rank == 0 else None


def _describe_devices(world: World, found: Findings) -> None:
    import torch

    device = bind_device("auto", world.local_rank)
    cores = usable_cores()
    where = str(device)
    if device.type == "cuda":  # a rank may see no device but its own, under the same name
        where += f" {torch.cuda.get_device_properties(device).uuid}"
    places = world.gather((world.host, where, cores, world.local_size))
    for rank, (host, where, host_cores, _) in enumerate(places):
        found.say(f"rank {rank}", f"host {host}, device {where}, {host_cores} cores")
    shared = Counter((host, where) for host, where, *_ in places if where != "cpu")
    for (host, where), ranks in shared.items():
        if ranks > 1:
            found.problems.append(
                f"{ranks} ranks share {where} on {host}: start one rank per GPU "
                "(with Slurm: --gpus-per-task=1)"
            )
    host, _, host_cores, ranks = min(places, key=lambda place: place[2] / place[3])
    if host_cores < ranks:
        found.say("note", f"{ranks} ranks share {host_cores} cores on {host}: fine for a trial")


def _describe_libraries(found: Findings) -> None:
    import h5py
    import torch

    for name in LIBRARIES:
        try:
            found.say(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            found.say(name, "not installed")
    found.say("HDF5", h5py.version.hdf5_version)
    found.say("CUDA", f"{torch.version.cuda}" if torch.cuda.is_available() else "no device")
