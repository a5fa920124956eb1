"""The folder of a run before the run: made ready, and cleared of an old run."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pint_diffusion.errors import InputError
from pint_diffusion.store.lock import LOCK, FolderLock
from pint_diffusion.store.manifest import MANIFEST
from pint_diffusion.store.master import MASTER
from pint_diffusion.store.part import FOLDER
from pint_diffusion.store.place import refuse_no_folder
from pint_diffusion.store.reserve import RESERVE

STREAM = "stream"
"""Folder of the answers that were drawn as they arrived."""

OF_A_RUN = (
    MASTER,
    MANIFEST,
    RESERVE,
    f"{FOLDER}/*.h5",
    f"{FOLDER}/*.new",
    "events-*.h5",
    "samples.png",
    f"{STREAM}/*",
    "refinement.png",
    "wavefront.png",
)
"""Files of a run, which --force deletes."""


def clear_folder(folder: Path, force: bool) -> FolderLock:
    """Make the folder of a run ready and lock it; with ``force`` delete the run in it.

    Raises
    ------
    InputError
        If it can't be written, if a job writes there or, without ``force``, if it holds anything.
    """
    refuse_no_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            lock = undo.enter_context(FolderLock(folder))
            if not force and any(path.name != LOCK for path in folder.iterdir()):
                raise InputError(
                    f"`out` {folder} is not empty: give another folder, or `force` to overwrite "
                    "the run in it"
                )
            for pattern in OF_A_RUN:
                for old in folder.glob(pattern):
                    old.unlink()
            undo.pop_all()
            return lock
    except OSError as error:
        raise InputError(f"`out` {folder} can't be written: {error.strerror}") from None
