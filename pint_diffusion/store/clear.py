"""The folder of a run before the run: made ready, and cleared of an old run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.store.directory import Directory, link_text
from pint_diffusion.store.lock import FolderLock
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.names import (
    LOCK,
    MANIFEST,
    MASTER,
    NEW,
    PARTS,
    RESERVE,
    STREAM,
    STREAMED,
    is_of_a_run,
)
from pint_diffusion.store.part import PartName, read_sealed

SHOWN = 3
"""Names of other things in a folder that an error has."""


def clear_folder(folder: Path, force: bool) -> tuple[Directory, FolderLock]:
    """Make the folder of a run ready and lock it; with ``force`` delete the run in it.

    Other things beside a run are left as they are.

    Raises
    ------
    InputError
        If it can't be written, if a job writes there, if it holds a link in place of a file of a
        run, if it holds anything and there is no ``force``, or if what it holds is no run.
    """
    try:
        here = Directory.made(folder)
        refuse_full(here, force)
        with contextlib.ExitStack() as undo:
            lock = undo.enter_context(FolderLock(here))
            refuse_full(here, force)  # another job may have been faster
            refuse_links(here)
            delete_run(here)
            undo.pop_all()
            return here, lock
    except OSError as error:
        raise InputError(f"`out` {folder} can't be written: {error.strerror}") from None


def refuse_full(here: Directory, force: bool) -> None:
    """Refuse a folder that holds anything, or with ``force`` anything but a run.

    Raises
    ------
    InputError
        If it does.
    """
    names = [name for name in here.names() if name != LOCK]
    if names and not force:
        raise InputError(
            f"`out` {here.path} is not empty: give another folder, or `force` to overwrite the run "
            "in it"
        )
    if names and not holds_run(here) and not is_left_by_start(here):
        others = sorted(name for name in names if not is_of_a_run(name)) or sorted(names)
        shown = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        raise InputError(
            f"`out` {here.path} holds no run that `force` may overwrite, and other things "
            f"({shown}): give another folder"
        )


def holds_run(here: Directory) -> bool:
    """Return whether a folder has a whole master file or a whole manifest."""
    try:
        read_sealed(here, MASTER)
        return True
    except StoreError:
        pass
    try:
        Manifest.read(here)
        return True
    except InputError:
        return False


def is_left_by_start(here: Directory) -> bool:
    """Return whether a folder has no more than a start that was killed leaves there."""

    def is_left(entry: os.DirEntry[str]) -> bool:
        if entry.name == PARTS and entry.is_dir(follow_symlinks=False):
            return all(name.endswith(NEW) for name in here.below(PARTS).names())
        new = entry.name.endswith(NEW) and is_of_a_run(entry.name)
        return (new or entry.name in (LOCK, RESERVE)) and entry.is_file(follow_symlinks=False)

    return all(map(is_left, here.entries()))


def refuse_links(here: Directory) -> None:
    """Refuse a folder with a link where a run has a file or a folder of its own.

    Raises
    ------
    InputError
        If there is one.
    """
    for entry in here.entries():
        if not is_of_a_run(entry.name):
            continue
        if entry.is_symlink():
            raise InputError(link_text(here.path / entry.name))
        if entry.name in (PARTS, STREAM) and entry.is_dir():
            for inner in here.below(entry.name).entries():
                if inner.is_symlink():
                    raise InputError(link_text(here.path / entry.name / inner.name))


def delete_run(here: Directory) -> None:
    """Delete the files of a run, whose lock the caller has.

    Raises
    ------
    OSError
        If one can't be deleted.
    """
    for place, is_own in ((PARTS, PartName.parse), (STREAM, STREAMED.fullmatch)):
        if place in here.names():
            inside = here.below(place)
            for name in inside.names():
                if is_own(name.removesuffix(NEW)):
                    inside.delete(name)
    first = {MANIFEST: 1, MASTER: 2}  # as long as one of them is there, the folder holds a run
    for name in sorted(here.names(), key=lambda name: first.get(name, 0)):
        if is_of_a_run(name) and name not in (PARTS, STREAM, LOCK):
            here.delete(name)
