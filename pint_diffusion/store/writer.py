"""What a rank writes while it computes, in a thread of its own."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.errors import StoreError
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.store.part import replace_file, seal, write_part


class Writer:
    """Writes the boundary states of one rank, an iteration at a time.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    segment : int
        Which start of the run this is.
    rank : int
        This rank.
    columns : sequence of int
        Numbers n of the columns that it writes.
    retires : bool
        Columns n < k of iteration k are not written again.
    events : EventLog
        Written too, at the end.
    first : int
        Iterations before this one are on disk already.
    """

    def __init__(
        self,
        folder: Path,
        segment: int,
        rank: int,
        columns: Sequence[int],
        retires: bool,
        events: EventLog,
        first: int,
    ) -> None:
        self._folder = folder
        self._segment = segment
        self._rank = rank
        self._events = events
        self._first = first
        self._columns = sorted(columns)
        self._retires = retires
        self._rows: dict[int, dict[int, NDArray[np.floating]]] = {}
        self._latest: dict[int, NDArray[np.floating]] = {}
        self.event_rows = 0  # of the event file, once it is written
        self._error: BaseException | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def record(self, n: int, k: int, state: Tensor | None) -> None:
        """Write u_n^k, (1 + H, S, *shape), once the states of iteration k of this rank are there.

        None repeats iteration k - 1. The disk is not waited for.
        """
        values = None if state is None else state.cpu().numpy()
        self.do(lambda: self._put(n, k, values))

    def do(self, job: Callable[[], None]) -> None:
        """Run a job in the writing thread, after those before it.

        Raises
        ------
        StoreError
            If an earlier job could not be done (a full disk, say).
        """
        if self._error is not None:
            raise self._sentence(self._error)
        self._jobs.put(job)

    def close(self) -> None:
        """Write what is left; may be called again.

        Raises
        ------
        StoreError
            If anything could not be written; once.
        """
        self._jobs.put(None)
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise self._sentence(error) from error

    def _sentence(self, error: BaseException) -> StoreError:
        return StoreError(f"{self._folder} could not be written by rank {self._rank}: {error}")

    def _write(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
            path = self._folder / events_name(self._segment, self._rank)
            self.event_rows = write_events(path, self._events)
        except BaseException as error:
            self._error = error

    def _put(self, n: int, k: int, values: NDArray[np.floating] | None) -> None:
        values = self._latest[n] if values is None else values
        self._latest[n] = values
        if k < self._first:
            return
        if n not in self._columns:
            write_part(self._folder, self._segment, k, self._rank, "b", {n: values})
            return
        row = self._rows.setdefault(k, {})
        row[n] = values
        if row.keys() == {n for n in self._columns if n >= k or not self._retires}:
            write_part(self._folder, self._segment, k, self._rank, "a", self._rows.pop(k))


def events_name(segment: int, rank: int) -> str:
    """File name of what a rank did in a segment, beside the master."""
    return f"events-{segment:02d}-{rank:04d}.h5"


def write_events(path: Path, events: EventLog) -> int:
    """Write the events of a rank, as a whole; return how many there are."""
    image = io.BytesIO()
    table = events.table()
    with h5py.File(image, "w") as file:
        file["events"] = table
    content = image.getvalue()
    replace_file(path, content + seal(content))
    return len(table)
