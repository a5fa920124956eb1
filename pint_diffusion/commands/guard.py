"""What ends a rank of the command whatever it is doing, also in a library that keeps the lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from types import TracebackType

from pint_diffusion.commands import guardian
from pint_diffusion.runtime.gate import allowed, not_ready
from pint_diffusion.runtime.limits import Limits, Overdue, Patrol, Seconds
from pint_diffusion.runtime.pace import Pace
from pint_diffusion.runtime.signals import ASKING
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.flags import with_flags

PATIENCE = 8.0
"""Seconds after a SIGTERM in which a rank may end in order."""

MARGIN = 5.0
"""Seconds in which threads end a job in order, if they can, before a guardian kills a rank."""

PERIOD = 1.0
"""Seconds from one sign of life to the next."""

HELD = (*ASKING, signal.SIGINT, signal.SIGHUP)
"""Signals that launchers send to all processes of a job, and that the guardian does not get."""


class Guard:
    """Starts a `guardian` beside this rank, and tells it every second that the rank is alive.

    A thread tells it, so a rank that is in a network call is alive, unless the call keeps Python's
    lock. On leaving, the guardian has ended.

    Parameters
    ----------
    world : World
        The processes of the job.

    """

    def __init__(self, world: World) -> None:
        self._who, self._world = f"rank {world.rank} on {world.host}", world
        self._expect: Callable[[], tuple[float, str]] = lambda: (inf, "")

    def __enter__(self) -> Guard:
        told, self._signals = os.pipe()
        os.set_blocking(self._signals, False)
        sentence = f"{self._who} did not end within {PATIENCE:g} s of SIGTERM and was killed"
        command = [sys.executable, "-I", "-S", guardian.__file__]
        command += [str(os.getpid()), str(told), str(PATIENCE), sentence]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)  # the guardian inherits the mask
        try:
            self._guardian = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd="/",
                pass_fds=[told],
                bufsize=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(told)
        self._patrol = Patrol(self._tell, PERIOD)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._patrol.end()
        os.close(self._signals)
        self._guardian.kill()
        self._guardian.communicate()

    def loads(self, limit: Seconds) -> None:
        """Note that this rank loads a network, and how long that may take at most."""
        seconds = allowed(limit, ())
        self._expect = lambda: (seconds, not_ready([self._who], seconds))
        self._tell()  # before Python's lock may be taken

    def computes(self, pace: Pace, limits: Limits) -> None:
        """Note that this rank makes network calls from now on.

        Other ranks notice first that it is silent: that is the better end, in order.
        """
        calls = Overdue(pace, limits.call, self._who) if limits.call is not None else None
        noticed = limits.silence or 0.0 if self._world.size > 1 else 0.0

        def expect() -> tuple[float, str]:
            seconds, sentence = calls.expected() if calls else (inf, "")
            return max(seconds, noticed, 2 * pace.longest), sentence

        self._expect = expect
        self._tell()

    def _tell(self, passed: float = 0.0) -> bool:
        seconds, sentence = self._expect()
        assert self._guardian.stdin is not None
        with suppress(BrokenPipeError):
            self._guardian.stdin.write(f"{seconds + MARGIN}\t{with_flags(sentence)}\n".encode())
        return False

    @contextmanager
    def hears(self) -> Iterator[None]:
        """Let the guardian hear of signals; in the main thread, where Python handles them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
