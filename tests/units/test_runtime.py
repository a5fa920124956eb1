"""Laws of the runtime that no method is needed for, and of what a process is left with."""

from __future__ import annotations

import faulthandler
import os
import signal
import time

import numpy as np
import pytest
import torch

from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.output import Output
from pint_diffusion.runtime.calls import Calls
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.limits import Limits
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.runtime.signals import ASKING, listening

CPU = torch.device("cpu")
LAST = 3


@pytest.fixture
def runtime(world):
    """A runtime without networks, and what it records."""
    events, recorded = EventLog(world.rank), {}
    made = Runtime(
        world.rank,
        world.size,
        Calls([], events, None),
        world.transport(events, CPU, Limits(60)),
        events,
        Records(recorded),
    )
    return made, recorded


class Records(Output):
    """Keeps what this rank records."""

    def __init__(self, recorded):
        self._recorded = recorded

    def state(self, n, k, state):
        self._recorded[n, k] = state


@pytest.mark.parametrize("columns", [1, 7])
def test_finish_waits_until_every_rank_has_recorded_what_it_promised(world, runtime, columns):
    """Rank 0 finishes at once; the others, and rank 0's other coroutines, take their time."""
    made, recorded = runtime
    mine = range(world.rank, columns, world.size)
    made.keeps(lambda k: [n for n in mine if n >= k])

    async def column(n):
        for k in range(min(n, 5) + 1):
            time.sleep(0.01 * world.rank)
            made.keep(n, k, torch.full((1,), float(k)))

    async def judge():
        nothing = np.zeros(1, np.int32)
        made.finish(Outcome(LAST, True, True, np.empty((LAST, 1)), nothing))

    made.spawn(0, judge)
    for n in mine:
        made.spawn(world.rank, column, n)
    assert list(made.run()) == []
    made.close()
    assert {n for n, k in recorded if k == LAST} == {n for n in mine if n >= LAST}


@pytest.mark.parametrize("number", ASKING)
def test_the_handlers_of_a_program_are_put_back(number, tmp_path):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with listening() as asked:
            os.kill(os.getpid(), number)
            assert asked.wait(5)
        assert heard == []
        os.kill(os.getpid(), number)
        assert heard == [number]
    finally:
        signal.signal(number, before)


def test_a_handler_that_is_not_pythons_is_put_back(tmp_path):
    with open(tmp_path / "trace", "w+", encoding="utf-8") as trace:
        faulthandler.register(signal.SIGUSR1, file=trace)
        try:
            with listening():
                pass
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        trace.seek(0)
        assert "test_a_handler_that_is_not_pythons" in trace.read()
