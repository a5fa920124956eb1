"""How long is waited for a call, for a rank that loads, and for a process that is asked to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import networks

import pint_diffusion
from pint_diffusion.commands.guard import Guard
from pint_diffusion.errors import InputError, TransportError
from pint_diffusion.runtime import gate, limits, pace
from pint_diffusion.runtime.limits import Clock, Limits, Overdue
from pint_diffusion.runtime.pace import Pace
from pint_diffusion.runtime.signals import listening
from pint_diffusion.runtime.world import LocalWorld

# ---------------------------------------------------------------- network calls


def called(*calls):
    """A pace that has seen calls of so many (rows, seconds)."""
    found = Pace()
    for rows, seconds in calls:
        found.begin(rows, lambda: "somewhere")
        found.open = found.open._replace(begun=found.open.begun - seconds)
        found.end()
    return found


@pytest.mark.parametrize(
    ("calls", "elsewhere", "rows", "seconds"),
    [
        ([], 0, 4, pace.FIRST),
        ([], 100, 4, 3000),
        ([(4, 0.1)], 0, 4, pace.LEAST),
        ([(4, 3), (4, 2)], 0, 4, 90),
        ([(4, 3)], 0, 1, 90),
        ([(4, 3)], 0, 16, 360),
        ([(4, 3)], 5, 4, 150),
    ],
)
def test_a_call_may_take_many_times_what_was_seen_and_more_with_more_rows(
    calls, elsewhere, rows, seconds
):
    found = called(*calls)
    found.elsewhere = elsewhere
    assert found.allowed(rows) == pytest.approx(seconds, rel=1e-3)


def test_the_age_of_a_call_is_its_own():
    found = Pace()
    looks = Overdue(found, 3.0, "rank 1 on h")
    for _ in range(3):
        found.begin(1, lambda: "slice 2, iteration 1, step 7")
        assert looks.look(2.0) is None  # that was before it
        assert looks.look(2.0) is None
        found.end()
    found.begin(1, lambda: "slice 2, iteration 1, step 7")
    assert [looks.look(2.0) is not None for _ in range(4)] == [False, False, True, True]
    cause = looks.look(0.0)
    assert cause.startswith("rank 1 on h: a network call at slice 2, iteration 1, step 7 has taken")
    assert "`call_limit`" in cause


def test_time_in_which_a_process_is_stopped_does_not_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    clock = Clock(1.0)
    for passed, counted in ((1.0, 1.0), (0.25, 0.25), (3600.0, 2.0), (1.0, 1.0)):
        now[0] += passed
        assert clock.tick() == counted
    assert clock.now == 4.25


@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), "soon", True])
@pytest.mark.parametrize("name", ["silence", "call"])
def test_what_is_no_limit_is_refused(given, name):
    with pytest.raises(InputError, match="must be a number of seconds above 0"):
        Limits(**{name: given}).check()
    Limits(10, "auto").check()


# ---------------------------------------------------------------- ranks that load


@pytest.mark.parametrize(
    ("limit", "took", "seconds"),
    [
        (None, [1], float("inf")),
        (3.0, [], 3.0),
        (3.0, [1000], 3.0),
        ("auto", [], gate.FIRST),
        ("auto", [2.0, 7.0], gate.LEAST),
        ("auto", [2.0, 70.0], 700.0),
    ],
)
def test_a_rank_may_load_as_long_as_was_said_or_many_times_as_long_as_others(limit, took, seconds):
    assert gate.allowed(limit, took) == seconds


def test_ranks_that_are_ready_in_time_meet_as_often_as_they_like(world):
    threads, told = threading.active_count(), []
    for limit in (None, "auto", 5.0):
        with world.preparing(limit, lambda *all_: told.append(all_)) as waiting:
            for _ in range(5):
                waiting.barrier()
                assert waiting.gather(world.rank) == list(range(world.size))
                assert waiting.share(world.rank) == 0
            with pytest.raises(InputError, match="no"):
                waiting.agree(lambda: refuse() if world.rank == world.size - 1 else None)
    assert told == []
    assert threading.active_count() == threads


def refuse():
    raise InputError("no")


@pytest.mark.parametrize("who", [0, -1])
def test_a_rank_that_is_not_ready_is_named_by_itself_and_by_the_others(world, monkeypatch, who):
    monkeypatch.setattr(gate, "GRACE", 0.3)
    late, told = who % world.size, []

    def prepare():
        with world.preparing(0.4, lambda *all_: told.append(all_)) as waiting:
            if world.rank == late:
                time.sleep(1.6)
                raise Late
            waiting.barrier()

    with pytest.raises((TransportError, Late)) as error:
        prepare()
    if world.rank == late:
        ((cause, told_by),) = told
        assert told_by == late
    else:
        assert told == []
        cause, told_by = str(error.value), error.value.told_by
        assert told_by == (0 if late else 1)
    assert f"rank {late} on {world.host} is not ready after 0.4 s" in cause
    world.barrier()


class Late(Exception):
    """A rank comes to itself when the others have given it up."""


# ---------------------------------------------------------------- processes that are asked to end

ACT = """
import sys
from helpers.networks import STUCK
from pint_diffusion.commands import guard
from pint_diffusion.runtime.limits import Limits
from pint_diffusion.runtime.pace import Pace
from pint_diffusion.runtime.signals import listening
from pint_diffusion.runtime.world import LocalWorld

guard.PATIENCE = guard.ALONE = 1.0
what, how, seconds = sys.argv[1:]
with guard.Guard(LocalWorld()) as watched, watched.hears(), listening() as asked:
    if what == "call":
        pace = Pace()
        pace.begin(1, lambda: "slice 2, iteration 1, step 7")
        watched.computes(pace, Limits(10.0, 0.5))
    elif what == "load":
        watched.loads(0.5)
    print("ready", flush=True)
    STUCK[how](float(seconds)) if how else asked.wait(20)
print("ended", flush=True)
"""


def start(what, how, seconds):
    """Let a process do something in a `Guard`; return it once it does."""
    roots = [Path(networks.__file__).parents[1], Path(pint_diffusion.__file__).parents[1]]
    process = subprocess.Popen(
        [sys.executable, "-c", ACT, what, how, str(seconds)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    with process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def act(what, how, seconds=1000, number=0):
    """Let a process do something in a `Guard`, and send it a signal; return how it ended."""
    process = start(what, how, seconds)
    process.send_signal(number)
    return end(process)


@pytest.mark.parametrize("how", ["sleeps", "keeps_the_lock"])
def test_sigterm_ends_a_process_whatever_it_does(how):
    code, out, err = act("nothing", how, number=signal.SIGTERM)
    assert (code, out) == (-signal.SIGKILL, "")
    who = f"rank 0 on {LocalWorld().host}"
    assert err == f"pint-diffusion: error: {who} did not end within 1 s of SIGTERM and was killed\n"


@pytest.mark.parametrize(
    ("how", "seconds", "number"),
    [("", 0, signal.SIGTERM), ("", 0, signal.SIGUSR1), ("sleeps", 3, signal.SIGUSR1)],
)
def test_a_process_that_ends_in_time_or_was_warned_early_is_left_alone(how, seconds, number):
    assert act("nothing", how, seconds, number) == (0, "ended\n", "")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "call",
            "a network call at slice 2, iteration 1, step 7 or after it has kept Python's lock",
        ),
        ("load", "is not ready after 0.5 s of loading"),
    ],
)
def test_what_keeps_the_lock_too_long_is_killed_and_what_does_not_is_not(what, said):
    code, out, err = act(what, "keeps_the_lock")
    assert (code, out) == (-signal.SIGKILL, "")
    assert said in err
    assert "raise --" in err
    assert err.count("\n") == 1
    assert act(what, "sleeps", seconds=3) == (0, "ended\n", "")


def test_a_process_that_is_stopped_is_not_killed():
    """Its guardian does not count the time: a batch system stops jobs, and lets them go on."""
    stopped = start("call", "sleeps", 2)
    stopped.send_signal(signal.SIGSTOP)
    time.sleep(4)
    stopped.send_signal(signal.SIGCONT)
    assert end(stopped) == (0, "ended\n", "")


def test_a_guard_leaves_nothing_behind():
    def there():
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        wakeup = signal.set_wakeup_fd(-1)
        files = len(os.listdir("/proc/self/fd"))
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return handlers, wakeup, files, children, threading.active_count()

    before = there()
    with Guard(LocalWorld()) as guard, guard.hears(), listening():
        assert there() != before
    assert there() == before
