"""The manifest of a run: its complete iterations, and the parts that hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.names import MANIFEST, PARTS
from pint_diffusion.store.part import PartName, foreign_text, read_own, read_part

GENERATIONS = 2
"""Number of complete iterations that stay on disk where a run keeps only the newest."""
_WRONG = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class Writing(NamedTuple):
    """The distribution of parts over the ranks that write them.

    Attributes
    ----------
    segment : int
        Number of this start of the run: 0, and one more for every resume.
    columns, ranks : int
        Number of columns, and number R of ranks: rank n modulo R writes column n.
    retires : bool
        Columns n < k are final at iteration k, and no rank writes them again.
    """

    segment: int
    columns: int
    ranks: int
    retires: bool


@dataclass
class Manifest:
    """The complete iterations of a run, oldest first.

    Attributes
    ----------
    folder : Directory
        Folder of the run.
    run : str
        Identity of the run, which its parts have too.
    rows : dict of int to dict of PartName to list of int
        Iteration k -> the parts that together hold u_n^k for every n >= k, and their n.
    changes : list of list of float
        Change of every sample at iterations 1, 2, ..., up to the last that rank 0 has judged; of
        methods in rounds the points that each sample has behind it.
    writing : Writing, optional
        The ranks that write, or wrote last. It shows when an iteration that is not in ``rows`` is
        complete.
    """

    folder: Directory = field(compare=False)
    run: str
    rows: dict[int, dict[PartName, list[int]]]
    changes: list[list[float]]
    writing: Writing | None = None
    _names: set[str] = field(default_factory=set, repr=False, compare=False)
    _loose: dict[tuple[int, int], dict[tuple[int, str], PartName]] = field(
        default_factory=dict, repr=False, compare=False
    )
    # Files seen so far; of them those of iterations that are not complete, by segment and k.

    @classmethod
    def read(cls, folder: Path | Directory, run: str | None = None) -> Manifest:
        """Read the manifest of a run.

        Parameters
        ----------
        folder : Path or Directory
            Folder of the run.
        run : str, optional
            Identity of the run whose manifest it must be.

        Raises
        ------
        InputError
            If there is none, if it is no manifest, or that of another run.
        """
        path = Path(folder.path if isinstance(folder, Directory) else folder) / MANIFEST
        try:
            here = Directory.of(folder)
            content = json.loads(here.read(MANIFEST).decode("utf-8"))
            if content.pop("sha256") != _digest(content):
                raise ValueError("it is torn or was changed")
            rows: dict[int, dict[PartName, list[int]]] = {}
            for k, parts in content["rows"].items():
                rows[int(k)] = {}
                for name, slices in parts.items():
                    if (part := PartName.parse(name)) is None:
                        raise ValueError(f"{name!r} is not the name of a part")
                    rows[int(k)][part] = [int(n) for n in slices]
            changes = [[float(one) for one in row] for row in content["changes"]]
            writing = content["writing"] and Writing(**content["writing"])
            found = cls(here, str(content["run"]), dict(sorted(rows.items())), changes, writing)
        except FileNotFoundError:
            raise InputError(f"{path.parent} has no {MANIFEST}: no run was begun there") from None
        except _WRONG as error:
            raise InputError(f"{path} can't be read: {error}") from None
        if run not in (None, found.run):
            raise InputError(foreign_text(path))
        return found

    def write(self) -> None:
        """Replace the file; the parts that it names are there after a crash too."""
        content: dict[str, Any] = {
            "run": self.run,
            "rows": {
                k: {str(part): slices for part, slices in parts.items()}
                for k, parts in self.rows.items()
            },
            "changes": self.changes,
            "writing": self.writing and self.writing._asdict(),
        }
        content["sha256"] = _digest(content)
        if self.rows:
            self.folder.below(PARTS).sync()
        self.folder.replace(MANIFEST, json.dumps(content, indent=1).encode())

    def extend(self) -> None:
        """Take in iterations that have become complete in the folder, by the files that are new."""
        if self.writing is None:
            return
        segment, columns, ranks, retires = self.writing
        new = set(self.folder.below(PARTS).names()) - self._names
        self._names |= new
        for part in _parsed(new):
            if part.segment == segment and part.k not in self.rows:
                self._loose.setdefault((segment, part.k), {})[part.rank, part.group] = part
        for k in sorted(k for at, k in self._loose if at == segment):
            wanted, parts = needed(k if retires else 0, columns, ranks), self._loose[segment, k]
            if parts.keys() >= wanted.keys():
                self.rows[k] = {parts[key]: where for key, where in wanted.items()}
                del self._loose[segment, k]

    def forget_old(self) -> list[PartName]:
        """Forget all but the newest iterations; `delete` their parts once that is written."""
        return [part for k in sorted(self.rows)[:-GENERATIONS] for part in self.rows.pop(k)]

    def delete(self, parts: Iterable[PartName]) -> None:
        """Delete parts that no manifest names."""
        if parts := list(parts):
            place = self.folder.below(PARTS)
            for part in parts:
                place.delete(str(part))
                self._names.discard(str(part))

    def newest(self, problems: list[str]) -> int | None:
        """Return the newest iteration whose parts are all whole, None if there is none.

        For each newer iteration the method adds to ``problems`` what is wrong with it.
        """
        for k in sorted(self.rows, reverse=True):
            if k > len(self.changes):
                continue  # rank 0 has not judged it yet
            try:
                for part in self.rows[k]:
                    read_own(self.folder, f"{PARTS}/{part}", self.run)
                return k
            except StoreError as error:
                problems.append(str(error))
        return None

    def states(self, k: int, wanted: Container[int]) -> dict[int, NDArray[np.floating]]:
        """Read the wanted columns of iteration k, n -> u_n^k, (1 + H, S, *shape) each.

        Raises
        ------
        StoreError
            If a part is missing, torn, changed, or of another run.
        """
        states: dict[int, NDArray[np.floating]] = {}
        for part, slices in self.rows[k].items():
            if any(n in wanted for n in slices):
                states |= read_part(self.folder, part, self.run)
        return {n: state for n, state in states.items() if n in wanted}

    def go_back(self, k: int) -> None:
        """Forget the iterations after ``k``, and delete the parts that no iteration needs."""
        self.rows = {row: parts for row, parts in self.rows.items() if row <= k}
        self.changes = self.changes[: max(k, 0)]
        self.write()
        kept = {part for parts in self.rows.values() for part in parts}
        self.delete(part for part in parts_of(self.folder) if part not in kept)


def needed(first: int, columns: int, ranks: int) -> dict[tuple[int, str], list[int]]:
    """Return (rank, group) -> n of columns, for the parts of an iteration that begins at ``first``.

    The answer so far is one more column, in a part of its own.
    """
    owned: dict[tuple[int, str], list[int]] = {}
    for n in range(first, columns):
        owned.setdefault((n % ranks, "a"), []).append(n)
    return owned | {(0, "b"): [columns]}


def parts_of(folder: Path | Directory) -> list[PartName]:
    """Names of the parts in a run's folder."""
    try:
        return _parsed(Directory.of(folder).below(PARTS).names())
    except FileNotFoundError:
        return []


def _parsed(names: Iterable[str]) -> list[PartName]:
    """Return what names of files say, of those that are parts."""
    return sorted(part for part in map(PartName.parse, names) if part is not None)


def _digest(content: dict[str, Any]) -> str:
    """Return the digest of a manifest's content; its layout in the file does not matter."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
