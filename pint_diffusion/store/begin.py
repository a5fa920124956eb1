"""How a run begins in its folder: rank 0 takes it, and the others find the same one."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import InputError
from pint_diffusion.methods.problem import Restart
from pint_diffusion.runtime.world import World
from pint_diffusion.store.clear import clear_folder, refuse_links
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.lock import FolderLock
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.master import open_master
from pint_diffusion.store.names import PARTS
from pint_diffusion.store.part import RUN
from pint_diffusion.store.restart import find, read_restart


@dataclass(frozen=True)
class Begun:
    """A run that has its folder.

    Attributes
    ----------
    run : str
        Identity of the run; a resumed one keeps its own.
    segment : int
        Number of this start.
    restart : Restart or None
        Iteration to go on from.
    directory : Directory or None
        The folder; on rank 0.
    manifest : Manifest or None
        Complete iterations; on rank 0.
    """

    run: str
    segment: int
    restart: Restart | None
    directory: Directory | None
    manifest: Manifest | None


def take(
    path: Path, force: bool, resume: bool, plan: Plan, identity: str, world: World, held: ExitStack
) -> Begun:
    """Lock the folder of a new run, or that of one to resume, and find where that one is.

    Parameters
    ----------
    path : Path
        The folder.
    force, resume : bool
        Overwrite the run in it, or go on with it.
    plan : Plan
        What is run.
    identity : str
        Of network and noise, see `fingerprint`; on rank 0.
    world : World
        The ranks.
    held : ExitStack
        Gets the lock of rank 0.

    Raises
    ------
    InputError
        On every rank, if the folder can't be taken.
    """
    directory: Directory | None = None
    manifest: Manifest | None = None

    def lock() -> tuple[int, int | None] | None:
        nonlocal directory, manifest
        if world.rank != 0:
            return None
        if not resume:
            directory, lock = clear_folder(path, force)
            held.enter_context(lock)
            manifest = Manifest(directory, secrets.token_hex(16), {}, [])
            return 0, None
        directory = there(path)
        held.enter_context(FolderLock(directory))
        refuse_links(directory)
        found = find(directory, plan, identity)
        manifest = found.manifest
        return found.segment, found.k

    place = world.agree(lock)
    known: tuple[Any, ...] = ()
    if place is not None and manifest is not None:
        known = *place, manifest.run, manifest.rows, manifest.changes
    segment, k, run, rows, changes = world.share(known)
    restart: Restart | None = None
    if k is not None and plan.method.iterates:

        def read() -> Restart:
            here = Manifest(directory or there(path), run, rows, changes)
            return read_restart(here, k, plan.problem)

        restart = world.agree(read)
    return Begun(run, segment, restart, directory, manifest)


def there(path: Path) -> Directory:
    """Open a folder.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return Directory.of(path)
    except OSError as error:
        raise InputError(f"{path} can't be opened: {error.strerror}") from None


def same_folder(path: Path, run: str, world: World) -> Directory:
    """Open the folder on another rank than the one that has begun the run in it.

    Raises
    ------
    InputError
        If this rank sees another folder there, or can't write in it.
    """
    try:
        here = Directory.of(path)
        with open_master(here) as file:
            same = file.attrs[RUN] == run
    except (OSError, InputError):
        same = False
    if not same:
        raise InputError(
            f"`out` {path} is not rank 0's folder here, on {world.host}: give the absolute path of "
            "a folder on a file system that all ranks share"
        )
    if not os.access(PARTS, os.W_OK, dir_fd=here.descriptor):
        raise InputError(f"`out` {path} can't be written on {world.host}")
    return here
