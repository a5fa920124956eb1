"""The lock of a run's folder: one job at a time writes there.

Rank 0 locks a file in the folder for as long as it writes, and beats: it touches the file once a
second. The lock ends with its process, however that ends. Some file systems have no locks, or their
locks do not reach the host that the file names. There the beats show whether that job still runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from pathlib import Path
from typing import TextIO

from pint_diffusion.errors import InputError

LOCK = "writer.lock"
BEAT = 1.0
"""Seconds between two beats."""

SILENCE = 3.5
"""Seconds without a beat after which a job counts as dead."""


class FolderLock:
    """The right to write in the folder of a run; leaving the context gives it back.

    Parameters
    ----------
    folder : Path
        Folder of the run; it exists.

    Raises
    ------
    InputError
        If a running job has it, or if the file can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LOCK
        try:
            self._file = self._take()
        except OSError as error:
            raise InputError(f"{folder} can't be written: {error.strerror}") from None
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._beats.start()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beats.join()
        with contextlib.suppress(OSError):
            self._path.unlink()  # first: later it could be that of another job
        self._file.close()

    def _take(self) -> TextIO:
        while True:
            with contextlib.ExitStack() as undo:
                file = undo.enter_context(open(self._path, "a+", encoding="utf-8"))
                file.seek(0)
                place, who, *_ = [*file.read().split("\n"), "", ""]
                if self._is_held(file, place):
                    raise InputError(
                        f"{self._folder} is being written by {who or 'another job'}: wait until it "
                        "has ended, or give another folder"
                    )
                if self._is_there(file):
                    file.truncate(0)
                    file.write(f"{_here()}\nprocess {os.getpid()} on {socket.gethostname()}\n")
                    file.flush()
                    undo.pop_all()
                    return file

    def _is_held(self, file: TextIO, place: str) -> bool:
        """Return whether a job has the lock; if none has, lock the file where that is possible."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if place in ("", _here()):
                return False
        except BlockingIOError:
            return True
        except OSError:  # no locks on this file system
            pass
        return place != "" and self._is_beating()

    def _is_there(self, file: TextIO) -> bool:
        """Return whether the file is still in the folder: a job that ends deletes its own."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _is_beating(self) -> bool:
        deadline = time.monotonic() + SILENCE
        before = self._touched()
        while (now := self._touched()) == before and time.monotonic() < deadline:
            time.sleep(BEAT / 4)
        return now not in (before, 0)

    def _touched(self) -> int:
        try:
            with open(self._path, "rb") as file:  # opening makes NFS look
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._file.fileno())


def _here() -> str:
    """Return the names of this host and of its boot: after a boot no earlier job runs."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = "unknown"
    return f"{socket.gethostname()} {boot}"
