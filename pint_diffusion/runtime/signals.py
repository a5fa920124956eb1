"""Signals that ask a run to end while it can still be resumed."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)
"""What batch systems send before they kill: ``scancel``, ``--signal=B:USR1@60``."""

ROOM = 512
"""Bytes that hold a ``struct sigaction`` of any system: glibc's has 152."""


@contextmanager
def listening() -> Iterator[threading.Event]:
    """Give an event that is set when this process is asked to end; only in the main thread.

    On leaving, the handlers that were there before are there again.
    """
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    installed = {number: _installed(number) for number in ASKING}
    before = {number: signal.signal(number, note) for number in ASKING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            # Python does not know of handlers that are not its own: as of faulthandler.register.
            ctypes.CDLL(None).sigaction(int(number), installed[number], None)


def _installed(number: int) -> ctypes.Array[ctypes.c_char]:
    """What the system does at a signal now."""
    action = ctypes.create_string_buffer(ROOM)
    ctypes.CDLL(None).sigaction(int(number), None, action)
    return action
