"""Parts: immutable files with the boundary states of one rank at one iteration.

A rank builds a part in memory, writes it under another name, syncs and renames it. So a file with
the name of a part is whole. The name holds the digest of the file's bytes: a reader can check a
part without any other file, and never takes a torn or changed one for whole. In the file stands to
which run it belongs.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import StoreError
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.explain import explain
from pint_diffusion.store.names import MASTER, PARTS

RUN = "run"
"""Name of what every file of a run says of itself: to which run it belongs."""
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
    parts: Directory,
    run: str,
    segment: int,
    k: int,
    rank: int,
    group: str,
    states: Mapping[int, NDArray[np.floating]],
) -> PartName:
    """Write a part of a run with the states n -> u_n^k, (1 + H, S, *shape) each.

    Raises
    ------
    OSError
        If the file can't be written, or if the folder is no longer where it was; then there is
        none.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs[RUN] = run
        file["slices"] = np.array(list(states), dtype=np.int64)
        file["states"] = np.stack(list(states.values()))
        explain(file, "slices", "states")
    content = image.getbuffer()
    name = PartName(segment, k, rank, group, hashlib.sha256(content).hexdigest()[:_DIGITS])
    parts.verify()
    parts.replace(str(name), content, sync=False)  # a manifest syncs the folder
    return name


def read_part(folder: Directory, name: PartName, run: str) -> dict[int, NDArray[np.floating]]:
    """Read the states of a part of a run, n -> u_n^k, (1 + H, S, *shape) each.

    Raises
    ------
    StoreError
        If it is missing, torn, changed, or of another run.
    """
    with h5py.File(io.BytesIO(read_own(folder, f"{PARTS}/{name}", run)), "r") as file:
        return dict(zip(file["slices"][:].tolist(), file["states"][:], strict=True))


def read_own(folder: Directory, name: str, run: str) -> bytes:
    """Return the content of a file of a run, and see that it is whole and the run's own.

    Parameters
    ----------
    folder : Directory
        Folder of the run.
    name : str
        Of a part, ``parts/...``, or of an event file.
    run : str
        Identity of the run.

    Raises
    ------
    StoreError
        If it is missing, torn, changed, or of another run.
    """
    inside, _, last = name.rpartition("/")
    part = PartName.parse(last) if inside else None
    if part is None:
        content = read_sealed(folder, name)
    else:
        content = _content(folder, last, inside)
        if hashlib.sha256(content).hexdigest()[:_DIGITS] != part.digest:
            told = "is torn or was changed: its digest is not the one in its name"
            raise StoreError(f"{folder.path / name} {told}")
    with h5py.File(io.BytesIO(content), "r") as file:
        if file.attrs.get(RUN) != run:
            raise StoreError(foreign_text(folder.path / name))
    return content


def foreign_text(path: Path) -> str:
    """Say that a file belongs to another run."""
    return f"{path} is of another run than {MASTER} there: put the files of one run together"


def seal(content: bytes | memoryview) -> bytes:
    """Return the last bytes of a file that has no digest in its name: the SHA-256 of the rest."""
    return hashlib.sha256(content).digest()


def read_sealed(folder: Directory, name: str) -> bytes:
    """Return the content of a file whose last bytes are the SHA-256 of the rest.

    Raises
    ------
    StoreError
        If it is missing, torn or changed.
    """
    content = _content(folder, name)
    size = hashlib.sha256().digest_size
    if seal(content[:-size]) != content[-size:]:
        path = folder.path / name
        raise StoreError(f"{path} is torn, was changed, or was written by another version")
    return content


def _content(folder: Directory, name: str, inside: str = "") -> bytes:
    try:
        return (folder.below(inside) if inside else folder).read(name)
    except FileNotFoundError:
        raise StoreError(f"{folder.path / inside / name} is missing") from None
    except OSError as error:
        path = folder.path / inside / name
        raise StoreError(f"{path} can't be read: {error.strerror}") from None
