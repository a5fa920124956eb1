"""Signals that ask a run to end while it can still be gone on with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)
"""What batch systems send before they kill: ``scancel``, ``--signal=B:USR1@60``."""


@contextmanager
def listening() -> Iterator[threading.Event]:
    """Give an event that is set when this process is asked to end; only in the main thread."""
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in ASKING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
