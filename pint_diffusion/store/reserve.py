"""Space that a run holds on its file system, so that it can still say that the disk is full."""

from __future__ import annotations

import os
from pathlib import Path

RESERVE = "reserve"


class Reserve:
    """A file that is given up when its space is needed.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE
        self._size = 0

    def hold(self, size: int) -> None:
        """Hold ``size`` bytes at least.

        Raises
        ------
        OSError
            If there is no such space.
        """
        if size > self._size:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.posix_fallocate(file, 0, size)
            finally:
                os.close(file)
            self._size = size

    def give_up(self) -> None:
        """Free the space."""
        self._path.unlink(missing_ok=True)
        self._size = 0
