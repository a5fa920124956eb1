"""How the command ends a job whose ranks can't agree any more: one is lost, or stuck."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from pint_diffusion.errors import TransportError
from pint_diffusion.output import Output
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.flags import with_flags

HEARD = 0.5
"""Seconds that a launcher has to pass on what was said; aborted, it may not read the rest."""

GRACE = 5
"""Seconds that MPI may take to abort the job before the system ends this process."""


def end_job(world: World, cause: str, told_by: int) -> NoReturn:
    """Say why the job ends, and end it on every rank, from any thread.

    Parameters
    ----------
    world : World
        The processes of the job.
    cause : str
        Why, in a sentence.
    told_by : int
        The rank that says it. The others wait for it, and do so themselves if it does not.
    """
    if told_by != world.rank:
        time.sleep(GRACE)
    with suppress(OSError):  # nobody may read it any more
        sys.stderr.write(f"pint-diffusion: error: {with_flags(cause)}; the job is ended\n")
        sys.stderr.flush()
    time.sleep(HEARD)
    signal.alarm(GRACE)  # not by a thread: Abort keeps Python's lock
    world.abort(1)


@contextmanager
def ending(world: World) -> Iterator[None]:
    """End the job where this rank finds that it can't go on."""
    try:
        yield
    except TransportError as error:
        if error.told_by is None:
            raise
        end_job(world, str(error), error.told_by)


class EndJob(Output):
    """Ends the job when a run can't go on; the last of a run's outputs.

    Parameters
    ----------
    world : World
        The processes of the job.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def lost(self, cause: str, told_by: int | None) -> None:
        """End the job, from the thread that noticed: this rank may be in a long network call."""
        if told_by is None or threading.current_thread() is threading.main_thread():
            return  # the error goes up to the command
        end_job(self._world, cause, told_by)
