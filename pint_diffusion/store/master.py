"""The master file of a run, ``run.h5``: it joins the ranks' parts and says what was run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.runtime.events import EVENT_DTYPE
from pint_diffusion.store.part import FOLDER, PartName, check_part, replace_file
from pint_diffusion.store.record import RunRecord

MASTER = "run.h5"
FORMAT = 2
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
    rows : mapping of int to mapping of PartName to list of int
        Iterations whose boundary states are shown, see `Manifest`.
    history : int
        H, tensors that a state has beside x.
    events : dict of str to int
        Event files and their rows.
    """

    folder: Path
    grid: TimeGrid
    state: tuple[int, ...]
    dtype: str
    facts: dict[str, Any]
    iterations: int = -1
    samples: NDArray[Any] | None = None
    sequential: NDArray[Any] | None = None
    change: list[NDArray[np.float64]] = field(default_factory=list)
    stopped_at: NDArray[np.int32] | None = None
    rows: Mapping[int, Mapping[PartName, list[int]]] = field(default_factory=dict)
    history: int = 0
    events: dict[str, int] = field(default_factory=dict)

    def write(self) -> None:
        """Replace the file; a reader sees the old one or the new one, never half of one."""
        image = io.BytesIO()
        with h5py.File(image, "w") as file:
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
            if self.iterations >= 0 and self.rows:
                self._join_boundary(file)
            if self.events:
                self._join_events(file)
        replace_file(self.folder / MASTER, image.getbuffer())

    def _join_boundary(self, file: h5py.File) -> None:
        """Map u_n^k, n >= k, to its part; the rest is NaN."""
        layout = h5py.VirtualLayout(
            (self.iterations + 1, self.grid.slices + 1, *self.state), self.dtype
        )
        for k in range(self.iterations + 1):
            for part, slices in self.rows.get(k, {}).items():
                room = (len(slices), 1 + self.history, *self.state)
                source = h5py.VirtualSource(f"{FOLDER}/{part}", "states", shape=room)
                stride = slices[1] - slices[0] if len(slices) > 1 else 1
                layout[k, slices[0] : slices[-1] + 1 : stride] = source[:, 0]
        file.create_virtual_dataset("boundary", layout, fillvalue=np.nan)

    def _join_events(self, file: h5py.File) -> None:
        layout = h5py.VirtualLayout((sum(self.events.values()),), EVENT_DTYPE)
        first = 0
        for name, count in self.events.items():
            if count:
                source = h5py.VirtualSource(name, "events", shape=(count,))
                layout[first : first + count] = source
                first += count
        file.create_virtual_dataset("events", layout)


def read_run(folder: Path) -> RunRecord:
    """Read a run's files.

    Raises
    ------
    InputError
        If there is no run in the folder, if it can't be read, or if a part is missing (HDF5
        itself would show fill values in its place).
    """
    path = folder / MASTER if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(f"{folder} holds no run: there is no {MASTER} in it")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if "samples" not in file:
                raise InputError(f"the run in {folder} has no samples yet: {file.attrs['status']}")
            for name in _joined(file):
                _check_part(path.parent / name)
            optional = {
                name: file[name][:] if name in file else None for name in ("boundary", "sequential")
            }
            if optional["boundary"] is not None:
                _show_retired(optional["boundary"])
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
    except (OSError, KeyError, ValueError, yaml.YAMLError, StoreError) as error:
        raise InputError(f"{path} can't be read: {error}") from None


def _joined(file: h5py.File) -> list[str]:
    """Names of the files that the virtual datasets show."""
    shown = (file[name].virtual_sources() for name in ("boundary", "events") if name in file)
    return sorted({source.file_name for sources in shown for source in sources})


def _check_part(path: Path) -> None:
    """Refuse a file that is not there or was changed: HDF5 would show fill values instead."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    if (part := PartName.parse(path.name)) is not None:
        check_part(path, part)


def _show_retired(boundary: NDArray[Any]) -> None:
    """Fill in u_n^k for k > n: the last state of a retired slice, u_n^n."""
    for k in range(1, len(boundary)):
        boundary[k, :k] = boundary[k - 1, :k]


def _plain(value: Any) -> Any:
    """Turn an HDF5 attribute into Python's own types."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
