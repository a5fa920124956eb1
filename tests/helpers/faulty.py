"""A network whose process meets a fault at an exact moment: for `helpers.faults`.

    FAULT=kill MOMENT=middle FAULT_RANK=1 SPRUNG=file ... --model tests/helpers/faulty.py:factory

FAULT names what happens, MOMENT when, FAULT_RANK on which rank. The process writes its id to the
file SPRUNG first, so a test knows that the fault was there, and when. Without FAULT this is a
network like any other. Moments that are no network call are calls of functions of the package.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pint_diffusion import run
from pint_diffusion.models.mixture import GaussianMixture
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.store import writer

SECONDS, SLOW = 0.003, 0.3
"""Seconds of a network call, and of one on a slow rank."""

HOUR = 3600


class Mixture(GaussianMixture):
    """Five Gaussians over 1 x 3 x 2 pictures; it takes a little time."""

    def __call__(self, x, t, alpha_bar):
        """Evaluate, and let the fault do with the answer what it does."""
        time.sleep(SECONDS)
        return TRAP.answer(super().__call__(x, t, alpha_bar))


def factory(device, dtype):
    """Make the network, and set the trap."""
    draw = np.random.default_rng(7)
    means = draw.uniform(-1, 1, (5, 1, 3, 2))
    TRAP.load()
    return Mixture(means, np.full(5, 0.05), np.full(5, 0.2), device=device, dtype=dtype)


def before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Let something happen before each call of a function."""
    inner = getattr(owner, name)

    def call(*given, **named):
        act(*given)
        return inner(*given, **named)

    setattr(owner, name, call)


class Trap:
    """Waits for the moment, on the rank that it is for."""

    def __init__(self) -> None:
        self.fault = os.environ.get("FAULT", "")
        self.moment = os.environ.get("MOMENT", "")
        self.open = bool(self.fault) and os.environ.get("PMI_RANK", "0") == os.environ["FAULT_RANK"]
        self.counts = False
        self.calls = 0
        self.sprung = False

    def load(self) -> None:
        """Note that the network is loaded."""
        if not self.open:
            return
        of_network = self.fault in IN_A_CALL
        if self.moment == "loading":
            self.spring()
            if of_network:
                IN_A_CALL[self.fault](None)
        elif self.moment in ("first", "middle"):
            before(Runtime, "__init__", lambda *_: self.count())
        elif self.moment == "checkpoint":  # the calls after the first one: something is complete
            before(
                writer, "write_part", lambda parts, run, segment, k, *_: k >= 1 and self.spring()
            )
        elif self.moment == "stop":
            before(Runtime, "_end_after", lambda *_: self.spring())
        else:
            verified = self.count if of_network else self.spring
            before(run, "solve_sequentially", lambda *_: verified())

    def count(self) -> None:
        """Begin to count network calls."""
        self.counts = True

    def answer(self, output):
        """Return what the network answers."""
        if not self.counts:
            return output
        self.calls += 1
        due = {"first": 1, "verify": 3}.get(self.moment) or int(os.environ["MIDDLE"])
        if self.calls >= due:
            self.spring()
            if self.fault in IN_A_CALL:
                return IN_A_CALL[self.fault](output)
        return output

    def spring(self) -> None:
        """Let happen what does so once, if it has not."""
        if self.sprung:
            return
        self.sprung = True
        new = Path(os.environ["SPRUNG"] + ".new")
        new.write_text(str(os.getpid()))
        new.rename(os.environ["SPRUNG"])
        if self.fault in AT_ONCE:
            AT_ONCE[self.fault]()


def for_ever() -> None:
    """Sleep."""
    while True:
        time.sleep(1)


def fails() -> None:
    """Make a mistake."""
    raise ValueError("a fault of the test")


def fill() -> None:
    """Fill the disk to its last block."""
    with open(os.environ["FAULT_DISK"], "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def move() -> Path:
    """Move the folder of the run away."""
    folder = Path(os.environ["FAULT_FOLDER"])
    return folder.rename(folder.with_name("moved"))


def remove() -> None:
    """Remove the folder of the run, with all that is written into it meanwhile."""
    moved = move()
    while moved.exists():
        shutil.rmtree(moved, ignore_errors=True)


def set_back() -> None:
    """Set the clock back by an hour, as this process sees it."""
    of_day, in_ns = time.time, time.time_ns
    time.time = lambda: of_day() - HOUR
    time.time_ns = lambda: in_ns() - HOUR * 10**9


def sleep_in_c() -> None:
    """Hold the interpreter's lock."""
    ctypes.PyDLL(None).sleep(10**6)


AT_ONCE: dict[str, Callable[[], Any]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda: os._exit(3),
    "full disk": fill,
    "folder moved": move,
    "folder removed": remove,
    "clock set back": set_back,
    "lost host": lambda: None,  # the test does it
    "network cut": lambda: None,
}

IN_A_CALL: dict[str, Callable[[Any], Any]] = {
    "hang": lambda output: for_ever(),
    "spin": lambda output: sleep_in_c(),
    "raise": lambda output: fails(),
    "NaN": lambda output: output * float("nan"),
    "wrong shape": lambda output: output[:, :, :1],
    "slow rank": lambda output: (time.sleep(SLOW), output)[1],
}
"""From that call on: a run that no longer needs one call needs the next."""

TRAP = Trap()
