"""Parts: immutable files with the boundary states of one rank at one iteration.

A rank builds a part in memory, writes it under another name, syncs and renames it. So a file with
the name of a part is whole. The name holds the digest of the file's bytes: a reader can check a
part without any other file, and never takes a torn or changed one for whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import StoreError

FOLDER = "parts"
_NAME = re.compile(r"(\d{2,})-(\d{4,})-(\d{4,})-([ab])-([0-9a-f]{16})\.h5")
_DIGITS = 16


@dataclass(frozen=True, order=True)
class PartName:
    """The name of a part, by its fields.

    Attributes
    ----------
    segment : int
        Number of the start of the run that wrote it: 0, and one more for every resume.
    k : int
        Iteration.
    rank : int
        Rank that wrote it.
    group : {"a", "b"}
        "a": start states of the rank's slices; "b": the last boundary state, from rank 0.
    digest : str
        First hexadecimal digits of the SHA-256 of its bytes.
    """

    segment: int
    k: int
    rank: int
    group: str
    digest: str

    @classmethod
    def parse(cls, name: str) -> PartName | None:
        """Return the name of a part by its fields; None if ``name`` is not that of a part."""
        if (found := _NAME.fullmatch(name)) is None:
            return None
        segment, k, rank, group, digest = found.groups()
        return cls(int(segment), int(k), int(rank), group, digest)

    def __str__(self) -> str:
        return f"{self.segment:02d}-{self.k:04d}-{self.rank:04d}-{self.group}-{self.digest}.h5"


def write_part(
    folder: Path,
    segment: int,
    k: int,
    rank: int,
    group: str,
    states: Mapping[int, NDArray[np.floating]],
) -> PartName:
    """Write a part with the states n -> u_n^k, (1 + H, S, *shape) each.

    Raises
    ------
    OSError
        If the file can't be written; then there is none.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file["slices"] = np.array(list(states), dtype=np.int64)
        file["states"] = np.stack(list(states.values()))
    content = image.getbuffer()
    name = PartName(segment, k, rank, group, hashlib.sha256(content).hexdigest()[:_DIGITS])
    replace_file(folder / FOLDER / str(name), content, sync=False)  # a manifest syncs the folder
    return name


def read_part(folder: Path, name: PartName) -> dict[int, NDArray[np.floating]]:
    """Read the states of a part, n -> u_n^k, (1 + H, S, *shape) each.

    Raises
    ------
    StoreError
        If it is missing, torn or changed.
    """
    content = check_part(folder / FOLDER / str(name), name)
    with h5py.File(io.BytesIO(content), "r") as file:
        return dict(zip(file["slices"][:].tolist(), file["states"][:], strict=True))


def check_part(path: Path, name: PartName) -> bytes:
    """Return the content of a part.

    Raises
    ------
    StoreError
        If it is missing, torn or changed.
    """
    content = _content(path)
    if hashlib.sha256(content).hexdigest()[:_DIGITS] != name.digest:
        raise StoreError(f"{path} is torn or was changed: its digest is not the one in its name")
    return content


def seal(content: bytes | memoryview) -> bytes:
    """Return the last bytes of a file that has no digest in its name: the SHA-256 of the rest."""
    return hashlib.sha256(content).digest()


def read_sealed(path: Path) -> bytes:
    """Return the content of a file whose last bytes are the SHA-256 of the rest.

    Raises
    ------
    StoreError
        If it is missing, torn or changed.
    """
    content = _content(path)
    size = hashlib.sha256().digest_size
    if seal(content[:-size]) != content[-size:]:
        raise StoreError(f"{path} is torn, was changed, or was written by another version")
    return content


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}") from None


def replace_file(path: Path, content: bytes | memoryview, sync: bool = True) -> None:
    """Write a file so that its name shows the old content or the new one, also after a crash.

    With ``sync`` it is the new one after a crash too.
    """
    new = path.with_name(path.name + ".new")
    try:
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()  # on a full disk somebody else needs the space
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a crash of the host."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
