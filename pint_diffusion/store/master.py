"""The master file of a run, ``run.h5``: it joins the ranks' shards and says what was run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from pint_diffusion.errors import InputError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.runtime.events import EVENT_DTYPE
from pint_diffusion.store.record import RunRecord
from pint_diffusion.store.shard import shard_name

MASTER = "run.h5"
FORMAT = 1
"""Version of the file format, raised when a reader of the old one would go wrong."""


@dataclass
class Master:
    """What the master file says; written anew, as a whole, whenever that changes.

    Attributes
    ----------
    folder : Path
        Folder of the run.
    grid : TimeGrid
        Levels and slices.
    shards : mapping of int to list of int
        Rank to the boundaries n that its shard keeps.
    limit : int
        Most iterations of the run: the shards have room for this many.
    state : tuple of int
        Shape of one boundary state, (S, *shape).
    dtype : str
        numpy name of its dtype.
    facts : dict
        Attributes: configuration, versions, counts, times, status.
    iterations : int
        Iterations of which boundary states are shown, -1 for none.
    samples, sequential : array or None, shape (S, *shape)
        The answer so far, and the sequential sampler's.
    change : list of array
        (S,) for each iteration so far.
    stopped_at : array or None, shape (S,)
        Each sample's stopping iteration.
    event_counts : list of int
        Rows in each shard's event table; empty while they still grow.
    """

    folder: Path
    grid: TimeGrid
    shards: Mapping[int, list[int]]
    limit: int
    state: tuple[int, ...]
    dtype: str
    facts: dict[str, Any]
    iterations: int = -1
    samples: NDArray[Any] | None = None
    sequential: NDArray[Any] | None = None
    change: list[NDArray[np.float64]] = field(default_factory=list)
    stopped_at: NDArray[np.int32] | None = None
    event_counts: list[int] = field(default_factory=list)

    def write(self) -> None:
        """Replace the file; a reader sees the old one or the new one, never half of one."""
        new = self.folder / (MASTER + ".new")
        with h5py.File(new, "w", locking="best-effort") as file:
            file.attrs["format"] = FORMAT
            for name, value in self.facts.items():
                file.attrs[name] = value
            file["grid/alpha_bar"] = np.array([level.alpha_bar for level in self.grid.levels])
            file["grid/t"] = np.array([level.t for level in self.grid.levels])
            file["grid/slices"] = np.array(self.grid.bounds, dtype=np.int64)
            file["change"] = np.array(self.change).reshape(len(self.change), self.state[0])
            for name in ("samples", "sequential", "stopped_at"):
                if (array := getattr(self, name)) is not None:
                    file[name] = array
            if self.iterations >= 0 and any(self.shards.values()):
                self._join_boundary(file)
            if self.event_counts:
                self._join_events(file)
            file.flush()
        with open(new, "rb") as written:
            os.fsync(written.fileno())
        os.replace(new, self.folder / MASTER)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _join_boundary(self, file: h5py.File) -> None:
        """Map u_n^k to its shard; a retired slice (k > n) shows its last state, u_n^n."""
        layout = h5py.VirtualLayout(
            (self.iterations + 1, self.grid.slices + 1, *self.state), self.dtype
        )
        for rank, boundaries in self.shards.items():
            room = (self.limit + 1, len(boundaries), *self.state)
            source = h5py.VirtualSource(shard_name(rank), "boundary", shape=room)
            for column, n in enumerate(boundaries):
                moving = min(n, self.iterations) + 1
                layout[:moving, n] = source[:moving, column]
                for k in range(moving, self.iterations + 1):
                    layout[k, n] = source[n, column]
        file.create_virtual_dataset("boundary", layout, fillvalue=np.nan)

    def _join_events(self, file: h5py.File) -> None:
        layout = h5py.VirtualLayout((sum(self.event_counts),), EVENT_DTYPE)
        first = 0
        for rank, count in enumerate(self.event_counts):
            if count:
                source = h5py.VirtualSource(shard_name(rank), "events", shape=(count,))
                layout[first : first + count] = source
                first += count
        file.create_virtual_dataset("events", layout)


def read_run(folder: Path) -> RunRecord:
    """Read a run's files.

    Raises
    ------
    InputError
        If there is no run in the folder, if it can't be read, or if a shard is missing (HDF5
        itself would show fill values in its place).
    """
    path = folder / MASTER if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(f"{folder} holds no run: there is no {MASTER} in it")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if "samples" not in file:
                raise InputError(f"the run in {folder} has no samples yet: {file.attrs['status']}")
            for rank in range(int(file.attrs["ranks"])):
                _check_shard(path.parent / shard_name(rank))
            optional = {
                name: file[name][:] if name in file else None for name in ("boundary", "sequential")
            }
            facts = {name: _plain(value) for name, value in file.attrs.items()}
            return RunRecord(
                samples=file["samples"][:],
                change=file["change"][:],
                stopped_at=file["stopped_at"][:]
                if "stopped_at" in file
                else np.zeros(len(file["samples"]), np.int32),
                alpha_bar=file["grid/alpha_bar"][:],
                bounds=file["grid/slices"][:],
                events=file["events"][:] if "events" in file else np.empty(0, EVENT_DTYPE),
                config=yaml.safe_load(facts["config"]),
                facts=facts,
                **optional,
            )
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} can't be read: {error}") from None


def _check_shard(path: Path) -> None:
    """Refuse a shard that is not there or can't be opened: HDF5 may show fill values instead."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    with h5py.File(path, "r", locking="best-effort") as shard:
        if "events" not in shard:
            raise InputError(f"{path} is not the shard of a run")


def _plain(value: Any) -> Any:
    """Turn an HDF5 attribute into Python's own types."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
