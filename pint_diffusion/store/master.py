"""The master file of a run, ``run.h5``: the answer, the facts, and a view of the ranks' parts."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.runtime.events import EVENT_DTYPE
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.part import (
    FOLDER,
    PartName,
    check_part,
    read_sealed,
    replace_file,
    seal,
)
from pint_diffusion.store.record import RunRecord
from pint_diffusion.yaml_text import parse_yaml

MASTER = "run.h5"
FORMAT = 3
"""Version of the file format, raised when a reader of the old one would go wrong."""

EVENTS = re.compile(r"events-([0-9]{2,})-([0-9]{4,})\.h5")
"""Names of the event files: segment and rank."""
_VIRTUAL = ("boundary", "events")
_NUMBER = (int, float)
_NEEDED: dict[str, Any] = {
    **dict.fromkeys(("status", "config", "method", "coarse_solver", "fingerprint"), str),
    **dict.fromkeys(("seed", "ranks", "threads", "segment", "resumed_after"), int),
    "enough_iterations": int,
    **dict.fromkeys(
        ("mpi_library", "options", "solver", "solver_options", "counts", "column"), str
    ),
    "tolerance_unit": str,
    **dict.fromkeys(("summed_noise", "retires", "iterates", "uses_coarse"), bool),
    "tolerance": _NUMBER,
}
_OPTIONAL: dict[str, Any] = {
    **dict.fromkeys(("iterations", "evaluations", "evaluations_wasted"), int),
    **dict.fromkeys(("evaluations_deep", "calls_deep", "network_calls"), int),
    **dict.fromkeys(("converged", "exact"), bool),
    "precision": str,
    **dict.fromkeys(("wall_time", "evaluation_time", "sequential_wall_time"), _NUMBER),
    "start_up_time": _NUMBER,
    "cores_per_rank": _NUMBER,
}
_LISTS: dict[str, Any] = {
    **dict.fromkeys(("fine_evaluations", "coarse_evaluations"), int),
    **dict.fromkeys(("hosts", "devices", "versions"), str),
    "data_range": _NUMBER,
}
"""Attributes and their types; for lists, the types of the entries."""


@dataclass
class Master:
    """The content of the master file; each change writes the whole file anew.

    Attributes
    ----------
    folder : Path
        Folder of the run.
    grid : TimeGrid
        Levels and slices.
    state : tuple of int
        Shape of one boundary state, (S, *shape).
    dtype : str
        numpy name of the dtype of states.
    facts : dict
        Attributes: configuration, versions, counts, times, status.
    iterations : int
        Last iteration in the view of boundary states, -1 for none.
    samples, sequential : array or None, shape (S, *shape)
        The answer so far, and the sequential sampler's.
    change : list of array, each of shape (S,)
        Change of each sample at iterations 1, 2, ...
    stopped_at : array of int or None, shape (S,)
        Each sample's stopping iteration.
    rows : mapping of int to mapping of PartName to list of int
        Iterations in the view of boundary states, see `Manifest`.
    history : int
        Number of tensors that a column has beside x.
    columns : int
        Number of columns in the checkpoint of an iteration; the answer so far is one more.
    events : dict of str to int
        Event files, and the number of rows in each.
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
    columns: int = 0
    events: dict[str, int] = field(default_factory=dict)

    def write(self) -> None:
        """Replace the file; a reader sees the old one or the new one, never a part of one."""
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
        content = image.getvalue()
        replace_file(self.folder / MASTER, content + seal(content))

    def _join_boundary(self, file: h5py.File) -> None:
        """Map u_n^k, n >= k, to its part; the rest is NaN."""
        layout = h5py.VirtualLayout(
            (self.iterations + 1, self.columns + 1, *self.state), self.dtype
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


def read_run(folder: str | PathLike[str]) -> RunRecord:
    """Read a run's files.

    Raises
    ------
    InputError
        If there is no run in the folder, if it can't be read, or if a part is missing (HDF5
        itself would show fill values in its place).
    """
    with open_master(Path(folder)) as file:
        facts = read_facts(file)
        if "samples" not in file:
            raise InputError(f"the run in {folder} has no samples yet: {facts['status']}")
        for name, shown in _joined(file):
            _check_shown(Path(file.filename).parent / name, shown)

        def read(name: str) -> NDArray[Any] | None:
            return own_dataset(file, name)[:] if name in file else None

        boundary, stopped_at, events = read("boundary"), read("stopped_at"), read("events")
        if boundary is not None:
            _show_retired(boundary)
        samples = own_dataset(file, "samples")[:]
        return RunRecord(
            samples=samples,
            boundary=boundary,
            sequential=read("sequential"),
            change=own_dataset(file, "change")[:],
            stopped_at=np.zeros(len(samples), np.int32) if stopped_at is None else stopped_at,
            alpha_bar=own_dataset(file, "grid/alpha_bar")[:],
            bounds=own_dataset(file, "grid/slices")[:],
            events=np.empty(0, EVENT_DTYPE) if events is None else events,
            config=read_settings(facts),
            facts=facts,
        )


@contextlib.contextmanager
def open_master(folder: Path) -> Iterator[h5py.File]:
    """Open the master file of a run, by the folder of the run or by its own path.

    The function first compares the SHA-256 at the end of the file, since HDF5 itself can crash on a
    changed file. Any exception while the file is open becomes an error of the file.

    Raises
    ------
    InputError
        If there is none, or if it can't be read.
    """
    path = folder / MASTER if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(f"{folder} holds no run: there is no {MASTER} in it")
    try:
        read_sealed(path)
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except InputError:
        raise
    except StoreError as error:
        raise InputError(str(error)) from None
    except Exception as error:  # what h5py raises on rubbish is not one family
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} can't be read: {reason}") from error


def read_facts(file: h5py.File) -> dict[str, Any]:
    """Read the attributes of a master file.

    Raises
    ------
    ValueError
        If one is missing or not of its type.
    """
    facts = {name: _plain(value) for name, value in file.attrs.items()}
    if facts.get("format") != FORMAT:
        raise ValueError(f"it has format {facts.get('format')}, not {FORMAT}")
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(facts.get(name), kind)]
    wrong += [n for n, kind in _OPTIONAL.items() if n in facts and not isinstance(facts[n], kind)]
    for name, kind in _LISTS.items():
        entries = facts.get(name)
        if not isinstance(entries, list) or not all(isinstance(one, kind) for one in entries):
            wrong.append(name)
    if wrong or len(facts["data_range"]) != 2:
        raise ValueError(f"its attribute {[*wrong, 'data_range'][0]} is not what it must be")
    return facts


def read_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the attribute ``config``.

    Raises
    ------
    ValueError
        If it holds no settings, or wrong ones.
    """
    config = parse_yaml(facts["config"]).values
    if not isinstance(config, dict) or not config.keys() <= Settings.model_fields.keys():
        raise ValueError("its attribute config holds no settings")
    for name in ("method", "solver"):
        value = config.get(name)
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"its attribute config names no {name}")
    try:
        Settings(**without_third_parties(config))
    except InputError:
        raise ValueError("its attribute config holds wrong settings") from None
    return config


def without_third_parties(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without classes of a third party: reading a file runs no code it names."""
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            named = value.get("name")
            if isinstance(named, str) and ":" in named:
                continue
            value = without_third_parties(value)
        elif name in ("method", "solver") and isinstance(value, str) and ":" in value:
            continue
        kept[name] = value
    return kept


def own_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return an array of numbers that is in this file, or a view of other files of the run.

    Raises
    ------
    ValueError
        If it is missing or anything else: HDF5 would follow links to any file.
    """
    steps = name.split("/")
    for at in range(1, len(steps) + 1):
        if not isinstance(file.get("/".join(steps[:at]), getlink=True), h5py.HardLink):
            raise ValueError(f"its {name} is missing, or somewhere else")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.external or not found.ndim:
        raise ValueError(f"its {name} is no array, or somewhere else")
    if found.is_virtual and name not in _VIRTUAL:
        raise ValueError(f"its {name} is in other files")
    if found.dtype != EVENT_DTYPE if name == "events" else found.dtype.kind not in "fiu":
        raise ValueError(f"its {name} has the wrong type, {found.dtype}")
    return found


def _joined(file: h5py.File) -> list[tuple[str, str]]:
    """Return the files that the virtual datasets show, and the dataset of each."""
    shown = {
        (source.file_name, source.dset_name)
        for name in _VIRTUAL
        if name in file
        for source in own_dataset(file, name).virtual_sources()
    }
    for path, _ in shown:
        folder, _, part = path.rpartition("/")
        if not (folder == FOLDER and PartName.parse(part)) and not EVENTS.fullmatch(path):
            raise ValueError(f"it shows {path}, which is no file of a run")
    return sorted(shown)


def _check_shown(path: Path, dataset: str) -> None:
    """Refuse a missing or changed file: HDF5 would show fill values in its place."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    part = PartName.parse(path.name)
    content = read_sealed(path) if part is None else check_part(path, part)
    with h5py.File(io.BytesIO(content), "r") as file:
        if own_dataset(file, dataset).is_virtual:
            raise ValueError(f"{path} shows other files")


def _show_retired(boundary: NDArray[Any]) -> None:
    """Fill in u_n^k for k > n: the last state of a retired slice, u_n^n."""
    for k in range(1, len(boundary)):
        boundary[k, :k] = boundary[k - 1, :k]


def _plain(value: Any) -> Any:
    """Turn an HDF5 attribute into Python's own types."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
