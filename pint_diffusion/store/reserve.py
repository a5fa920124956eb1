"""The reserve of a run: disk space for its last master file, in case the disk gets full."""

from __future__ import annotations

import os

from pint_diffusion.store.directory import Directory
from pint_diffusion.store.names import RESERVE


class Reserve:
    """A file that holds disk space until the run needs it.

    Parameters
    ----------
    folder : Directory
        Folder of the run.
    """

    def __init__(self, folder: Directory) -> None:
        self._folder = folder
        self._size = 0
        self._file: int | None = None

    def hold(self, size: int) -> None:
        """Hold at least ``size`` bytes.

        Raises
        ------
        OSError
            If the file system has less space; what was held is still.
        """
        if size > self._size:
            if self._file is None:
                self._file = self._folder.create(RESERVE)
            os.posix_fallocate(self._file, 0, size)
            self._size = size

    def give_up(self) -> None:
        """Free the space."""
        self._folder.delete(RESERVE)
        if self._file is not None:
            os.close(self._file)
        self._file, self._size = None, 0
