"""The lock of a run's folder: one job at a time writes there.

Rank 0 locks a file in the folder for as long as it writes, and beats: it touches the file once a
second. The lock ends with its process, however that ends. Some file systems have no locks, or their
locks do not reach the host that the file names. There the beats show whether that job still runs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TextIO

from pint_diffusion.errors import InputError
from pint_diffusion.store.directory import Directory, link_text
from pint_diffusion.store.names import LOCK

BEAT = 1.0
"""Seconds between two beats."""

ENDING = 1.0
"""Seconds that a process that was killed may take to give its lock back."""

SILENCE = 3.5
"""Seconds without a beat after which a job counts as dead."""


class FolderLock:
    """The right to write in the folder of a run; leaving the context gives it back.

    Parameters
    ----------
    folder : Path or Directory
        Folder of the run; it exists.

    Raises
    ------
    InputError
        If a running job has it, if the file can't be written, or if it is a link or has another
        name too.
    """

    def __init__(self, folder: Path | Directory) -> None:
        try:
            self._folder = Directory.of(folder)
            self._file = self._take()
        except OSError as error:
            where = folder.path if isinstance(folder, Directory) else folder
            raise InputError(f"{where} can't be written: {error.strerror}") from None
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._beats.start()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beats.join()
        with contextlib.suppress(OSError):
            if self._is_there(self._file):
                self._folder.delete(LOCK)  # first: later it could be that of another job
        self._file.close()

    def _take(self) -> TextIO:
        while True:
            with contextlib.ExitStack() as undo:
                file = undo.enter_context(self._open())
                file.seek(0)
                place, who, *_ = [*file.read().split("\n"), "", ""]
                if self._is_held(file, place):
                    raise InputError(
                        f"{self._folder.path} is being written by {who or 'another job'}: wait "
                        "until it has ended, or give another folder"
                    )
                if self._is_there(file):
                    file.truncate(0)
                    file.write(f"{_here()}\nprocess {os.getpid()} on {socket.gethostname()}\n")
                    file.flush()
                    undo.pop_all()
                    return file

    def _open(self) -> TextIO:
        """Open the lock file or make it; what is written into it must be seen nowhere else."""
        path = self._folder.path / LOCK
        try:
            descriptor = self._folder.open(LOCK, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise InputError(link_text(path)) from None
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
            os.close(descriptor)
            what = "a hard link" if there.st_nlink > 1 else "no file"
            raise InputError(link_text(path, what))
        return os.fdopen(descriptor, "a+", encoding="utf-8")

    def _is_held(self, file: TextIO, place: str) -> bool:
        """Return whether a job has the lock; if none has, lock the file where that is possible."""
        deadline = time.monotonic() + ENDING
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if place in ("", _here()):
                    return False
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(ENDING / 20)
                    continue
                return True
            except OSError:  # no locks on this file system
                pass
            return place != "" and self._is_beating()

    def _is_there(self, file: TextIO) -> bool:
        """Return whether the file is still in the folder: a job that ends deletes its own."""
        try:
            at = self._folder.descriptor
            there = os.stat(LOCK, dir_fd=at, follow_symlinks=False)
            return os.path.samestat(there, os.fstat(file.fileno()))
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
            with open(self._folder.open(LOCK, os.O_RDONLY), "rb") as file:  # so NFS looks
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
