"""What the command does when a rank has fallen silent: it ends the job on every rank."""

from __future__ import annotations

import signal
import sys
import threading

from pint_diffusion.output import Output
from pint_diffusion.runtime.world import World

GRACE = 5
"""Seconds that MPI may take to abort the job before the system ends this process."""


class EndJob(Output):
    """Prints which rank has fallen silent and ends every rank; the last of a run's outputs.

    Parameters
    ----------
    world : World
        The processes of the job.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def lost(self, cause: str) -> None:
        """End the job, from the thread that noticed: this rank may be in a long network call."""
        if threading.current_thread() is threading.main_thread():
            return  # the error goes up to the command
        print(f"pint-diffusion: error: {cause}; the job is ended", file=sys.stderr, flush=True)
        signal.alarm(GRACE)  # not by a thread: Abort keeps Python's lock
        self._world.abort(1)
