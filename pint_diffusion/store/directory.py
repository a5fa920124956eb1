"""A folder held by a descriptor: what a run writes goes where it began, and through no link.

Names are looked up relative to the descriptor. So nobody can lead a run elsewhere by putting a
link, or another folder, in the place of its own. `Directory.verify` notices that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import weakref
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def link_text(path: Path, what: str = "a symbolic link") -> str:
    """Say that something in a run's folder is not what a run writes into."""
    return (
        f"{path} is {what}, and a run writes into nothing but files of its own: delete it, or give "
        "another folder"
    )


class Directory:
    """A folder, by a descriptor. A name is that of a file in it, never a path.

    What writes, deletes or goes down follows no link. What reads a file follows links.

    Parameters
    ----------
    path : Path
        Where it was found, for messages and for `verify`.
    descriptor : int
        Of the folder; this object closes it.
    above : Directory, optional
        The folder in which it was found by its name alone.
    """

    def __init__(self, path: Path, descriptor: int, above: Directory | None = None) -> None:
        self.path = path
        self.descriptor = descriptor
        self._above = above
        self.close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def of(cls, folder: Path | Directory) -> Directory:
        """Open a folder, which links may lead to; or return one that is open.

        Raises
        ------
        OSError
            If there is none.
        """
        if isinstance(folder, Directory):
            return folder
        return cls(folder, os.open(folder, _FOLDER))

    @classmethod
    def made(cls, folder: Path) -> Directory:
        """Make a folder, if it is not there, that nobody else can write to; and open it.

        Raises
        ------
        OSError
            If it can't be made, or is no folder.
        """
        folder.mkdir(0o755, parents=True, exist_ok=True)
        return cls.of(folder)

    def below(self, name: str, make: bool = False) -> Directory:
        """Open a folder in this one; with ``make`` make it if it is not there.

        Raises
        ------
        OSError
            If there is none, or a link.
        """
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self.descriptor)
        found = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.descriptor)
        return Directory(self.path / name, found, self)

    def verify(self) -> None:
        """See whether this folder still is where it was found.

        Raises
        ------
        OSError
            If it was moved, deleted or exchanged.
        """
        if self._above is not None:
            self._above.verify()
        if not self._is_there():
            told = "the folder was moved or exchanged while the run was under way"
            raise OSError(errno.ESTALE, told, str(self.path))

    def _is_there(self) -> bool:
        above, own = self._above, os.fstat(self.descriptor)
        with contextlib.suppress(FileNotFoundError):
            if above is None:
                return os.path.samestat(os.stat(self.path), own)
            name, at = self.path.name, above.descriptor
            return os.path.samestat(os.stat(name, dir_fd=at, follow_symlinks=False), own)
        return False

    def entries(self) -> list[os.DirEntry[str]]:
        """Return what is in the folder, in the order of the names."""
        with os.scandir(self.descriptor) as found:
            return sorted(found, key=lambda entry: entry.name)

    def names(self) -> list[str]:
        """Return the names in the folder."""
        return os.listdir(self.descriptor)

    def open(self, name: str, flags: int) -> int:
        """Open a file, and return its descriptor. A link is refused.

        Raises
        ------
        OSError
            If it can't be opened.
        """
        more = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not wait for its end
        return os.open(name, flags | more, 0o644, dir_fd=self.descriptor)

    def create(self, name: str) -> int:
        """Make a file that was not there before, and return its descriptor.

        What has the name is deleted first: a link would lead elsewhere, and another name of the
        same file would see what is written.

        Raises
        ------
        OSError
            If it can't be made.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            return self.open(name, flags)
        except FileExistsError:
            self.delete(name)
            return self.open(name, flags)

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises
        ------
        OSError
            If there is none, or something that is no file.
        """
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=self.descriptor), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no file", str(self.path / name))
            return file.read()

    def replace(self, name: str, content: bytes | memoryview, sync: bool = True) -> None:
        """Write a file so that its name shows the old content or the new, also after a crash.

        With ``sync`` it is the new one after a crash too.

        Raises
        ------
        OSError
            If it can't be written; then the old one is there.
        """
        new, at = f"{name}.new", self.descriptor
        try:
            with open(self.create(new), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, name, src_dir_fd=at, dst_dir_fd=at)
        except OSError:
            with contextlib.suppress(OSError):
                self.delete(new)  # on a full disk somebody else needs the space
            raise
        if sync:
            self.sync()

    def delete(self, name: str) -> None:
        """Delete a file, or a link but not what it leads to; there may be none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Let the names in the folder survive a crash of the host."""
        os.fsync(self.descriptor)

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_size

    def strange(self, *names: str) -> str | None:
        """Say who else can change this folder or files of it; None if nobody can.

        Of a file that is not there nothing is said.
        """
        found = {self.path: os.fstat(self.descriptor)}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found[self.path / name] = os.stat(
                    name, dir_fd=self.descriptor, follow_symlinks=False
                )
        for path, there in found.items():
            if there.st_uid != os.geteuid():
                return f"{path} belongs to another user"
            if there.st_mode & _OTHERS_WRITE and not stat.S_ISLNK(there.st_mode):
                return f"others can write to {path}"
        return None
