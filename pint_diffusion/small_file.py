"""Small files that a user gives: regular ones only, read whole, up to a size."""

from __future__ import annotations

import os
import stat
from os import PathLike

LIMIT = 16_000_000
"""Most bytes of a small file."""

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of_file(path: str | PathLike[str]) -> str:
    """Return what is at a path: "a file" if it is a regular one, "a folder", "a named pipe", ...

    Raises
    ------
    OSError, ValueError
        If nothing is there, or nothing can be.
    """
    return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "no file")


def refuse_irregular(path: str | PathLike[str]) -> None:
    """Refuse what is no regular file: reading a pipe, a socket or a device may have no end.

    Raises
    ------
    ValueError
        If it is none. Says why, without the name.
    """
    try:
        kind = kind_of_file(path)
    except OSError as error:
        raise ValueError(error.strerror) from None
    if kind != "a file":
        raise ValueError(f"it is {kind}, and must be a file")


def refuse_no_place_for_file(path: str | PathLike[str]) -> None:
    """Refuse to write to what is there and no regular file, or into a folder that is not there.

    Raises
    ------
    ValueError
        If that is asked for. Says why, without the name.
    """
    if os.path.lexists(path):
        refuse_irregular(path)
    elif not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError("there is no such folder")


def read_small_file(path: str | PathLike[str], limit: int = LIMIT) -> str:
    """Return the text of a file.

    Parameters
    ----------
    path : path
        The file.
    limit : int
        Most bytes that it may have.

    Raises
    ------
    ValueError
        If there is no regular file, if it is larger, or if it holds no text in UTF-8. Says why,
        without the name.
    """
    refuse_irregular(path)
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it was exchanged for something that is no file")
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(error.strerror) from None
    if len(content) > limit:
        raise ValueError(f"it has more than {limit / 1e6:g} MB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8, from byte {error.start} on") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
