"""The file of one rank: the boundary states it keeps and its events, written beside computing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import h5py
import numpy as np
from torch import Tensor

from pint_diffusion.errors import StoreError
from pint_diffusion.runtime.events import EVENT_DTYPE, EventLog


def shard_name(rank: int) -> str:
    """File name of a rank's shard, beside the master."""
    return f"shard-{rank:04d}.h5"


class ShardWriter:
    """Writes what one rank keeps, in order, in a thread of its own.

    The file has ``/boundary`` (iterations + 1, len(boundaries), S, *shape) with NaN where nothing
    was written, ``/boundaries`` with the numbers n of its columns, and ``/events``. After every
    state it is flushed, so that it can be read if the process is killed.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    boundaries : sequence of int
        Numbers n of the boundary states that this rank keeps; none: only events are written.
    iterations : int
        Most iterations K of the run.
    state : tuple of int
        Shape of one boundary state, (S, *shape).
    dtype : str
        numpy name of the states' dtype.
    events : EventLog
        Where the events come from.
    """

    def __init__(
        self,
        folder: Path,
        boundaries: Sequence[int],
        iterations: int,
        state: tuple[int, ...],
        dtype: str,
        events: EventLog,
    ) -> None:
        self._events = events
        self._columns = {n: column for column, n in enumerate(boundaries)}
        self._path = folder / shard_name(events.rank)
        self._file = h5py.File(self._path, "w", locking="best-effort")
        self._file["boundaries"] = np.array(boundaries, dtype=np.int64)
        self._file.create_dataset(
            "events", (0,), EVENT_DTYPE, maxshape=(None,), chunks=(1024,), fletcher32=True
        )
        if boundaries:
            self._file.create_dataset(
                "boundary",
                (iterations + 1, len(boundaries), *state),
                dtype,
                chunks=(1, 1, *state),
                fillvalue=np.nan,
            )
        self._file.flush()
        self.iterations = -1  # highest iteration of which something was written
        self.event_rows = 0  # events that were written
        self._error: BaseException | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def record(self, n: int, k: int, state: Tensor | None) -> None:
        """Write u_n^k, (S, *shape); None repeats iteration k - 1. The disk is not waited for."""
        if n in self._columns:
            values = None if state is None else state.cpu().numpy()
            self.do(lambda: self._put(self._columns[n], k, values))

    def do(self, job: Callable[[], None]) -> None:
        """Run a job in the writing thread once everything recorded so far is on disk.

        Raises
        ------
        StoreError
            If an earlier job could not be done (a full disk, say).
        """
        if self._error is not None:
            raise self._sentence(self._error)
        self._jobs.put(job)

    def close(self) -> None:
        """Write what is left and close the file; may be called again.

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
        return StoreError(f"{self._path} could not be written: {error}")

    def _write(self) -> None:
        try:
            with self._file:
                while (job := self._jobs.get()) is not None:
                    job()
                self._append_events()
        except BaseException as error:
            self._error = error

    def _put(self, column: int, k: int, values: np.ndarray | None) -> None:
        boundary = self._file["boundary"]
        boundary[k, column] = boundary[k - 1, column] if values is None else values
        self.iterations = max(self.iterations, k)
        self._append_events()
        self._file.flush()

    def _append_events(self) -> None:
        table = self._file["events"]
        rows = self._events.table(len(table))
        table.resize(len(table) + len(rows), axis=0)
        table[len(table) - len(rows) :] = rows
        self.event_rows = len(table)
