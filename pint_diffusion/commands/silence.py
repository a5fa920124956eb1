"""What the command does when a rank has fallen silent: it ends the job on every rank."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from pint_diffusion.runtime.world import OnSilence, World

GRACE = 5
"""Seconds that MPI may take to abort the job before the system ends this process."""


def job_ender(world: World, tell: Callable[[str], None]) -> OnSilence:
    """Make a function that prints which rank is silent, tells the files, and ends every rank.

    Parameters
    ----------
    world : World
        The processes of the job.
    tell : callable
        Writes the cause into the files, within seconds.
    """

    def end(cause: str) -> None:
        print(f"pint-diffusion: error: {cause}; the job is ended", file=sys.stderr, flush=True)
        tell(cause)
        signal.alarm(GRACE)  # not by a thread: Abort keeps Python's lock
        world.abort(1)

    return end
