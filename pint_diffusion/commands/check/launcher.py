"""Launcher: the number of processes, by MPI and by the launcher's environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pint_diffusion.commands.check.facts import STRAY_RANKS, Facts
from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.runtime.talk import Talk
from pint_diffusion.runtime.world import World

SINGLETONS = (
    "mpi4py's MPI library and the launcher do not belong together; use the launcher of that "
    "library (with Slurm: srun --mpi=pmi2 or --mpi=pmix)"
)


def world_size(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Compare the number of ranks with that in the launcher's environment."""
    first, size = facts[0], len(facts)
    found = f"{first.launcher or 'none'}, {size} process{'es' if size > 1 else ''}"
    told = {name: first.variables[name] for name in STRAY_RANKS if name in first.variables}
    stray = [f"{name} is {value}" for name, value in told.items() if value != "0"]
    tasks = first.variables.get("SLURM_NTASKS", "")
    if size == 1 and stray:
        lost = f"{stray[0]}, but MPI calls this process rank 0 of 1"
        yield Finding("launcher", "fail", lost, SINGLETONS)
    elif tasks.isdecimal() and int(tasks) > size:
        found += f", but SLURM_NTASKS is {tasks}"
        to_do = "start the program with srun or mpiexec, on as many tasks as were asked for"
        yield Finding("launcher", "warn", found, to_do)
    else:
        yield Finding("launcher", "ok", found)


def library(world: World, talk: Talk) -> Iterator[Finding]:
    """Describe the MPI library."""
    yield Finding("MPI library", "ok", world.library)
    yield Finding("MPI thread level", "ok", talk.thread_level)
