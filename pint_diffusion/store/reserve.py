"""The reserve of a run: disk space for its last master file, in case the disk gets full."""

from __future__ import annotations

import os
from pathlib import Path

RESERVE = "reserve"


class Reserve:
    """A file that holds disk space until the run needs it.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE
        self._size = 0

    def hold(self, size: int) -> None:
        """Hold at least ``size`` bytes.

        Raises
        ------
        OSError
            If the file system has less space.
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
