"""Laws of `World`: this process alone, all ranks, or a part of a program's own."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from helpers.runs import run, run_alone

from pint_diffusion.errors import InputError, TransportError
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.launcher import read_launcher
from pint_diffusion.runtime.transports.watchdog import Watchdog
from pint_diffusion.runtime.world import LocalWorld, open_world, world_of

RUN = {"steps": 12, "slices": 8, "samples": 2, "tolerance": 0, "batching": "off"}
CPU = torch.device("cpu")


@pytest.fixture
def ranks():
    """All ranks of the pass."""
    return open_world("mpi")


@pytest.fixture
def exact(ranks, mixture_file):
    return RUN | {"model": f"gmm:{ranks.share(mixture_file)}", "dtype": "float64"}


def halves(world):
    """Two halves of the program's ranks, those of the second one in reverse order."""
    half, order = divmod(world.rank, -(-world.size // 2))
    return half, world_of(world.comm.Split(half, -order if half else order))


def test_every_rank_of_a_world_agrees(world):
    assert world.gather(world.rank) == list(range(world.size))
    assert world.share(world.rank) == 0
    assert 0 <= world.local_rank < world.local_size <= world.size
    assert (world.library == "none") == (world.size == 1 and read_launcher() is None)
    with pytest.raises(
        InputError, match=f"rank {world.size - 1} on .*: no" if world.size > 1 else "no"
    ):
        world.agree(lambda: refuse() if world.rank == world.size - 1 else None)


def refuse():
    raise InputError("no")


def test_none_is_this_process_alone_whoever_started_it():
    assert world_of(None) == LocalWorld()


def test_auto_is_all_ranks_or_this_process():
    assert world_of("auto") == open_world("auto")


@pytest.mark.parametrize("comm", ["all", "mpi"])
def test_another_word_than_auto_is_refused(comm):
    with pytest.raises(InputError, match="`comm` is"):
        world_of(comm)


@pytest.mark.mpi
def test_what_joins_no_ranks_is_refused():
    from mpi4py import MPI

    nobody = MPI.COMM_WORLD.Split(MPI.UNDEFINED)
    for comm in (nobody, MPI.COMM_NULL, 3):
        with pytest.raises(InputError, match="`comm` is"):
            world_of(comm)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("method", ["parareal", "window", "chords"])
def test_two_halves_of_a_program_sample_at_once(ranks, mixture_file, method):
    """Each its own number of samples, so that a message of the other half would not fit."""
    half, world = halves(ranks)
    assert world.size < ranks.size
    model = f"gmm:{ranks.share(mixture_file)}"
    given = RUN | {"model": model, "method": method, "samples": 2 + half, "dtype": "float64"}
    if method != "parareal":
        given = given | {"slices": None}
    if method == "chords":
        given = given | {"cores": 4}
    done = run(world, **given)
    assert torch.equal(done.answer, run_alone(world, **given).answer)
    ranks.barrier()
    world.comm.Free()


@pytest.mark.mpi
def test_many_runs_one_after_the_other_leave_nothing_behind(ranks, exact):
    """MPI has some thousand communicators at most: a run gives back the duplicates that it made."""
    from mpi4py import MPI

    made, freed = [], []
    key = MPI.Comm.Create_keyval(
        copy_fn=lambda comm, key, value: made.append(1) or value,
        delete_fn=lambda comm, key, value: freed.append(1),
    )
    ranks.comm.Set_attr(key, "mark")
    threads = threading.active_count()
    first = run(ranks, **exact).answer
    for _ in range(5):
        assert torch.equal(run(ranks, **exact).answer, first)
    assert len(made) == len(freed) >= 6
    assert threading.active_count() == threads
    ranks.comm.Delete_attr(key)
    MPI.Comm.Free_keyval(key)


@pytest.mark.mpi(min_size=2)
def test_a_run_beside_a_thread_of_the_program_that_uses_mpi(ranks, exact):
    world = ranks
    own, done, heard = world.comm.Dup(), threading.Event(), []

    def chat():
        other = world.size - 1 - world.rank
        while not done.is_set() or len(heard) < 50:
            heard.append(own.sendrecv(world.rank, other, source=other, sendtag=1, recvtag=1))
            if len(heard) == 50:
                done.wait()
            time.sleep(1e-3)

    thread = threading.Thread(target=chat, daemon=True)
    thread.start()
    answer = run(world, **exact).answer
    done.set()
    thread.join(60)
    assert not thread.is_alive()
    assert set(heard) == {world.size - 1 - world.rank}
    assert torch.equal(answer, run_alone(world, **exact).answer)
    own.Free()


class Deaf(Watchdog):
    """Hears from a rank that does not exist, and tells nobody that this one is alive."""

    peers = ()


@pytest.mark.mpi
def test_a_silent_rank_is_told_of_by_the_transport_and_raised():
    from mpi4py import MPI

    from pint_diffusion.runtime.transports.mpi import MpiTransport

    told: list[str] = []
    events = EventLog(0)
    watchdog = Deaf(0, ["here", "there"], 0.2, events)
    transport = MpiTransport(MPI.COMM_SELF, events, CPU, watchdog, told.append)
    with pytest.raises(TransportError, match="rank 1 on there has been silent for"):
        transport.receive(20)
    assert len(told) == 1
    with pytest.raises(TransportError, match="rank 1 on there has been silent for"):
        transport.close()


def test_a_call_that_is_longer_than_the_patience_is_no_silence():
    from pint_diffusion.runtime.requests import Key
    from pint_diffusion.runtime.transports.base import Control

    watchdog = Watchdog(1, ["here", "there"], 0.1, EventLog(1))
    watchdog.heard(0, Key(Control.ALIVE, 2, 500))  # 2.5 seconds
    time.sleep(0.3)
    assert watchdog.silent() is None
    other = Watchdog(1, ["here", "there"], 0.1, EventLog(1))
    other.heard(0, Key(Control.FAILURE, 2, 500))  # says nothing of its calls
    time.sleep(0.3)
    assert "rank 0 on here has been silent" in other.silent()
