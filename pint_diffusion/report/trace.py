"""The events of a run as a trace for ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import InputError
from pint_diffusion.report.summary import MESSAGE_KINDS
from pint_diffusion.small_file import refuse_no_place_for_file
from pint_diffusion.store.master import EVENTS, open_master, own_dataset, read_facts
from pint_diffusion.store.part import read_sealed

_GAP = 1e-3
"""Seconds between one segment and the next in the trace; the true time is not known."""


def write_trace(folder: Path, path: Path) -> int:
    """Write the events of all segments of a run in the trace event format of Chrome.

    A rank is a process. It has a thread for waiting, one for each slice, and as many more as
    messages are under way at once. The segments of a resumed run follow one another.

    Parameters
    ----------
    folder : Path
        Folder of the run; it need not be finished.
    path : Path
        The JSON file to write.

    Returns
    -------
    int
        Number of events.

    Raises
    ------
    InputError
        If there is no run, if it left no events, or if a file can't be read or written.
    """
    try:
        refuse_no_place_for_file(path)
    except ValueError as error:
        raise InputError(f"`trace` {path} can't be written: {error}") from None
    with open_master(folder) as file:
        hosts = read_facts(file)["hosts"]
    segments = read_segments(folder)
    if not segments:
        raise InputError(f"the run in {folder} left no events: it was killed, or is running")
    made: list[dict[str, Any]] = []
    threads: dict[tuple[int, int], str] = {}
    slices = 1 + max(int(rows["slice"].max(initial=-1)) for rows in segments.values())
    begin = 0.0
    for segment, rows in segments.items():
        threads_of_rows = _threads(rows, slices)
        for row, (thread, name) in zip(rows.tolist(), threads_of_rows, strict=True):
            rank, n, k, kind, start, stop = row
            threads[rank, thread] = name
            made.append(
                {
                    "name": kind.decode() if k < 0 else f"{kind.decode()} {k}",
                    "cat": kind.decode(),
                    "ph": "X",
                    "pid": rank,
                    "tid": thread,
                    "ts": 1e6 * (begin + start),
                    "dur": 1e6 * (stop - start),
                    "args": {"slice": n, "iteration": k, "segment": segment},
                }
            )
        begin += max(float(rows["stop"].max(initial=0.0)), 0.0) + _GAP
    trace = {"traceEvents": [*_names(hosts, threads), *made], "displayTimeUnit": "ms"}
    try:
        path.write_text(json.dumps(trace), encoding="utf-8")
    except OSError as error:
        raise InputError(f"`trace` {path} can't be written: {error.strerror}") from None
    return len(made)


def read_segments(folder: Path) -> dict[int, NDArray[Any]]:
    """Read the event files of a run, segment -> rows of all its ranks.

    Raises
    ------
    InputError
        If one can't be read, or holds anything but events.
    """
    found: dict[int, list[NDArray[Any]]] = {}
    for path in sorted(folder.glob("events-*.h5")):
        if named := EVENTS.fullmatch(path.name):
            found.setdefault(int(named[1]), []).append(_read_events(path))
    return {segment: np.concatenate(tables) for segment, tables in sorted(found.items())}


def _read_events(path: Path) -> NDArray[Any]:
    try:
        with h5py.File(io.BytesIO(read_sealed(path)), "r") as file:
            rows: NDArray[Any] = own_dataset(file, "events")[:]
        ordered = np.isfinite(rows["stop"]) & (rows["start"] <= rows["stop"])
        if not ordered.all() or not all(kind.isascii() for kind in set(rows["kind"].tolist())):
            raise ValueError("it holds events that end before they start, or of no kind")
    except Exception as error:  # what h5py raises on rubbish is not one family
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} can't be read: {reason}") from error
    return rows


def _threads(rows: NDArray[Any], slices: int) -> list[tuple[int, str]]:
    """Return number and name of the thread of each event: boxes of one thread must not cross."""
    lanes = _lanes(rows)
    found = []
    for n, kind, lane in zip(rows["slice"].tolist(), rows["kind"].tolist(), lanes, strict=True):
        if kind in MESSAGE_KINDS:
            found.append((1 + slices + lane, f"messages {lane + 1}"))
        else:
            found.append((0, "waiting") if n < 0 else (1 + n, f"slice {n}"))
    return found


def _lanes(rows: NDArray[Any]) -> list[int]:
    """Give each message of a rank the first lane that is free when it begins; 0 to the rest."""
    lanes = [0] * len(rows)
    free: dict[int, list[float]] = {}
    messages = np.flatnonzero(np.isin(rows["kind"], MESSAGE_KINDS))
    for i in messages[np.argsort(rows["start"][messages], kind="stable")].tolist():
        ends = free.setdefault(int(rows["rank"][i]), [])
        start, stop = float(rows["start"][i]), float(rows["stop"][i])
        lane = next((at for at, end in enumerate(ends) if end <= start), len(ends))
        ends[lane : lane + 1] = [stop]
        lanes[i] = lane
    return lanes


def _names(hosts: Sequence[str], threads: dict[tuple[int, int], str]) -> Iterator[dict[str, Any]]:
    """Metadata: names of ranks, with the hosts of the last segment, and of their threads."""
    for rank in sorted({rank for rank, _ in threads}):
        where = f" on {hosts[rank]}" if 0 <= rank < len(hosts) else ""
        yield _metadata("process_name", rank, 0, name=f"rank {rank}{where}")
        yield _metadata("process_sort_index", rank, 0, sort_index=rank)
    for (rank, thread), name in sorted(threads.items()):
        yield _metadata("thread_name", rank, thread, name=name)
        yield _metadata("thread_sort_index", rank, thread, sort_index=thread)


def _metadata(what: str, rank: int, thread: int, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": rank, "tid": thread, "args": args}
