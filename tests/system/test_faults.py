"""A run that can't go on ends on every rank, says why once, and leaves what was computed."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import networks
from helpers.launch import launch, ranks_of, start

from pint_diffusion.commands.cli import main
from pint_diffusion.store.manifest import Manifest

NETWORKS = Path(networks.__file__)
RUN = ["--steps", 32, "--slices", 8, "--samples", 2, "--tolerance", 1e-12]


def sample(name, out, *more, ranks=4, stuck=0):
    """Start a run; ``stuck`` is the rank on which some networks never return."""
    given = ["--model", f"{NETWORKS}:{name}", "--out", out, *RUN, *more]
    return launch("sample", *given, ranks=ranks, environment={"STUCK_ON": str(stuck)})


@pytest.mark.parametrize("placement", ["root", "slice"])
@pytest.mark.parametrize("ranks", [1, 4])
def test_nan_stops_the_run_with_its_place_named_and_what_came_before_on_disk(
    tmp_path, placement, ranks
):
    ended = sample("nan_late", tmp_path / "out", "--placement", placement, ranks=ranks)
    assert ended.code == 4, ended
    said = [line for line in ended.err.splitlines() if "error" in line]
    assert len(said) == 1
    assert "NaN" in said[0]
    assert all(word in said[0] for word in ("slice", "iteration", "step"))
    assert "Traceback" not in ended.err
    with h5py.File(tmp_path / "out" / "run.h5") as file:
        assert file.attrs["status"].startswith("failed: rank")
        assert len(file["events"]) >= 11
        boundary = file["boundary"][:]
        assert np.isfinite(boundary[0, 0]).all()
        computed = np.isfinite(boundary).all(axis=(2, 3))
        assert computed[0].sum() > 1


@pytest.mark.parametrize("name", ["wrong_shape", "not_a_tensor"])
def test_a_network_that_returns_the_wrong_thing_stops_the_run(tmp_path, name):
    ended = sample(name, tmp_path / "out")
    assert ended.code == 4, ended
    assert "must return one row per state" in ended.err
    assert "slice" in ended.err


def test_a_network_that_calls_exit_does_not_end_a_run_as_if_it_were_done(tmp_path):
    ended = sample("leaves", tmp_path / "out", ranks=2)
    assert ended.code == 1, ended
    assert ended.err.count("SystemExit: 0") == 1


@pytest.mark.alone
@pytest.mark.parametrize(
    ("method", "place"),
    [("window", r"round 3, step \d+, sample \d+$"), ("chords", r"core \d, step \d+, sample \d+$")],
)
def test_nan_is_placed_in_the_words_of_the_method(tmp_path, capfd, method, place):
    """The 12th call of one evaluation; of a window of 4 points that is in round 3."""
    given = ["--model", f"{NETWORKS}:nan_late", "--steps", 32, "--samples", 2, "--method", method]
    given += ["--batching", "off", "--out", tmp_path / "out", "--tolerance", 0]
    given += ["--window", 4] if method == "window" else ["--cores", 4]
    assert main(["sample", *map(str, given)]) == 4
    said = capfd.readouterr().err.splitlines()[-1]
    assert re.search(f"the network returned NaN or infinity at {place}", said), said


def test_an_exception_on_one_rank_ends_all_with_the_cause_printed_once(tmp_path):
    ended = sample("raises", tmp_path / "out")
    assert ended.code == 1, ended
    assert ended.err.count("ZeroDivisionError: the user's own mistake") == 1
    assert re.search(
        r"error: rank 2 on \S+: the network failed at slice \d, iteration \d", ended.err
    )
    with h5py.File(tmp_path / "out" / "run.h5") as run:
        assert re.match(r"failed: rank 2 on \S+: the network failed at slice", run.attrs["status"])
    assert ended.seconds < 20


@pytest.mark.parametrize(("network", "where"), [("nan_in_the_walk", 0), ("nan_early", 1)])
def test_a_network_that_fails_in_a_comparison_ends_every_rank_with_its_reason(
    tmp_path, network, where
):
    given = ["--model", f"{NETWORKS}:{network}", "--steps", 8, "--samples", 2, "--devices", 4]
    ended = launch("compare", *given, "--out", tmp_path / "out", ranks=2)
    assert ended.code == 4, ended
    assert f"rank {where} on" in ended.err
    assert "NaN" in ended.err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("ranks", [1, 2])
def test_nan_in_the_sequential_walk_of_verify_ends_every_rank(tmp_path, ranks):
    given = ["--steps", 8, "--slices", 2, "--verify", "--placement", "slice"]
    network = f"{NETWORKS}:nan_in_the_walk"
    ended = launch("sample", "--model", network, "--out", tmp_path / "out", *given, ranks=ranks)
    assert ended.code == 4, ended
    assert ended.err.count("error") == 1


def test_a_file_that_cannot_be_written_to_the_end_is_an_error_on_every_rank(tmp_path):
    """The last job of a rank's writing thread counts too."""
    act = (
        "import os, sys; from pint_diffusion.commands.cli import main; "
        "from pint_diffusion.store import writer; "
        "full = lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')); "
        "bad = os.environ.get('PMI_RANK') == '1'; "
        "writer.write_events = full if bad else writer.write_events; "
        "sys.exit(main(sys.argv[1:]))"
    )
    given = ["--model", f"{NETWORKS}:fast", "--out", tmp_path / "out", "--keep", "final"]
    ended = launch("sample", *given, ranks=2, program=["-c", act])
    assert ended.code == 1, ended
    assert ended.err.count("No space left on device") == 1
    assert "error: rank 1 on " in ended.err
    assert f"files could not be written to {tmp_path / 'out'}" in ended.err


@pytest.mark.alone
@pytest.mark.parametrize("name", ["killed", "exits"])
def test_a_rank_that_dies_ends_every_rank(tmp_path, name):
    ended = sample(name, tmp_path / "out")
    assert ended.code != 0, ended
    assert ended.seconds < 20


@pytest.mark.alone
def test_nobody_outlives_a_rank_by_ten_seconds(tmp_path):
    """The run would take minutes."""
    long = ["--steps", 800, "--slices", 8]
    ended = launch(
        "sample", "--model", f"{NETWORKS}:killed", "--out", tmp_path / "out", *long, ranks=4
    )
    assert ended.code != 0
    assert ended.seconds < 20
    assert ranks_of(tmp_path / "out") == []


@pytest.mark.alone
@pytest.mark.parametrize("who", [0, 2])
def test_a_rank_that_falls_silent_is_named_and_ends_every_rank(tmp_path, who):
    """A stopped process is alive for the launcher, and so is one whose host was cut off."""
    given = ["--model", f"{NETWORKS}:slow", "--steps", 400, "--slices", 4, "--watchdog", 2]
    process = start("sample", *given, "--out", tmp_path / "out", ranks=4)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "run.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)
    ranks = {int(rank_of(pid)): pid for pid in ranks_of(tmp_path / "out")}
    os.kill(ranks[who], signal.SIGSTOP)
    begun = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert time.monotonic() - begun < 10
    assert f"rank {who} on " in said
    assert "has been silent for" in said
    if who != 0:
        with h5py.File(tmp_path / "out" / "run.h5") as run:
            assert f"failed: rank {who} on " in run.attrs["status"]
    assert all_ended(tmp_path / "out")


@pytest.mark.alone
@pytest.mark.parametrize(("how", "who", "ranks"), [("sleeps", 0, 1), ("spins", 2, 4)])
def test_a_call_that_never_returns_is_named_and_ends_every_rank(tmp_path, how, who, ranks):
    """The other ranks hear from it, so it is not silent."""
    out = tmp_path / "out"
    ended = sample(how, out, "--watchdog", 10, "--call-limit", 3, ranks=ranks, stuck=who)
    assert ended.code == 1, ended
    place = rf"rank {who} on \S+: a network call at slice \d, iteration \d, step \d+ has taken more"
    assert len(re.findall(f"error: {place} than 3 s: raise --call-limit", ended.err)) == 1
    assert "Traceback" not in ended.err
    with h5py.File(out / "run.h5") as run:
        assert re.match(f"failed: {place}", run.attrs["status"])
    assert all_ended(out)


@pytest.mark.alone
@pytest.mark.parametrize("who", [0, 1])
def test_a_call_that_keeps_the_lock_is_noticed_by_the_other_ranks(tmp_path, who):
    out = tmp_path / "out"
    given = ["--watchdog", 3, "--placement", "slice"]
    ended = sample("keeps_the_lock", out, *given, ranks=2, stuck=who)
    assert ended.code == 1, ended
    place = (
        rf"rank {who} on \S+ has been silent for \d+ s, last at slice \d, iteration \d, step \d+"
    )
    assert len(re.findall(place, ended.err)) == 1
    if who:
        with h5py.File(out / "run.h5") as run:
            assert re.match(f"failed: {place}", run.attrs["status"])
    assert all_ended(out)


@pytest.mark.alone
def test_a_call_that_keeps_the_lock_in_the_only_process_ends_it_too(tmp_path):
    ended = sample("keeps_the_lock", tmp_path / "out", "--call-limit", 2, ranks=1, stuck=0)
    assert ended.code == -signal.SIGKILL
    place = (
        r"rank 0 on \S+: a network call at slice \d, iteration \d, step \d+ or after it has kept"
    )
    assert re.search(
        f"error: {place} Python's lock for more than 2 s: raise --call-limit", ended.err
    )


@pytest.mark.alone
@pytest.mark.parametrize("how", ["sleeps", "keeps_the_lock"])
def test_a_rank_that_never_loads_is_named_and_ends_every_rank(tmp_path, how):
    out, stuck = tmp_path / "out", {"STUCK_HOW": how, "STUCK_ON": "1"}
    model = ["--model", f"{NETWORKS}:never_loads", "--out", out, "--load-limit", 3]
    ended = launch("sample", *model, *RUN, ranks=2, environment=stuck)
    assert ended.code == 1, ended
    said = r"error: rank 1 on \S+ is not ready after 3 s of loading: raise --load-limit"
    assert len(re.findall(said, ended.err)) == 1
    assert "Traceback" not in ended.err
    assert not out.exists()
    assert all_ended(out)


@pytest.mark.alone
def test_the_other_ranks_wait_for_the_walk_of_verify_as_long_as_it_goes_on(tmp_path):
    """It has no time limit of its own, but one of its calls has."""
    out = tmp_path / "out"
    given = ["--steps", 8, "--slices", 2, "--placement", "slice", "--verify", "--call-limit", 2]
    model = ["--model", f"{NETWORKS}:sleeps", "--out", out]
    environment = {"STUCK_ON": "0", "STUCK_AT": "9"}
    ended = launch("sample", *model, *given, ranks=2, environment=environment)
    assert ended.code == 1, ended
    assert re.search(r"rank 0 on \S+: a network call at slice \d, iteration 0, step \d", ended.err)
    assert len(Manifest.read(out).rows) == 3


@pytest.mark.alone
@pytest.mark.parametrize(("how", "ranks"), [("keeps_the_lock", 1), ("sleeps", 2)])
def test_sigterm_ends_every_rank_within_ten_seconds_whatever_it_does(tmp_path, how, ranks):
    """Also where it is sent to mpiexec alone; the calls themselves may take 10 minutes."""
    out = tmp_path / "out"
    given = ["--model", f"{NETWORKS}:{how}", "--out", out, *RUN, "--watchdog", "off"]
    stuck = {"STUCK_ON": str(ranks - 1)}
    process = start("sample", *given, ranks=ranks, environment=stuck)
    deadline = time.monotonic() + 60
    while not (out / "run.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    process.terminate()
    begun = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert process.returncode != 0
    assert f"rank {ranks - 1} on " in said
    assert "did not end within 8 s of SIGTERM and was killed" in said
    assert all_ended(out)


@pytest.mark.alone
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("kind", ["GeneratorExit", "StopsAll"])
def test_what_is_no_exception_is_told_as_one(tmp_path, kind, ranks):
    given = ["--model", f"{NETWORKS}:raises_what_is_no_exception", "--out", tmp_path / "out", *RUN]
    ended = launch("sample", *given, ranks=ranks, environment={"RAISES": kind})
    assert ended.code == 1, ended
    who = rf"rank {ranks - 1} on \S+: the network failed at slice \d, iteration \d, step \d+:"
    assert len(re.findall(who, ended.err)) == 1
    assert ended.err.count(f"{kind}: enough") == 1


def all_ended(folder):
    """Whether no rank is left soon after: the launcher ends those that have not noticed yet."""
    deadline = time.monotonic() + 5
    while ranks_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not ranks_of(folder)


def rank_of(pid):
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(entry[9:] for entry in environment if entry.startswith(b"PMI_RANK="))


@pytest.mark.alone
def test_a_library_call_raises_when_a_rank_falls_silent(mixture_file):
    """Rank 1 stops itself in its fifth network call; rank 0 continues its program."""
    act = (
        "import os, signal, sys; from mpi4py import MPI\n"
        "from pint_diffusion.build.from_settings import plan_of\n"
        "from pint_diffusion.errors import TransportError\n"
        "from pint_diffusion.run import solve\n"
        "from pint_diffusion.runtime.limits import Limits\n"
        "from pint_diffusion.runtime.world import world_of\n"
        "from pint_diffusion.settings.run import Settings\n"
        "comm = MPI.COMM_WORLD; pids = comm.allgather(os.getpid()); world = world_of(comm)\n"
        "plan = plan_of(Settings(model=sys.argv[1]), world)\n"
        "calls = []; inner = plan.evaluators[0].denoiser\n"
        "class Stops:\n"
        "    def __getattr__(self, name): return getattr(inner, name)\n"
        "    def __call__(self, *given):\n"
        "        calls.append(1)\n"
        "        if world.rank == 1 and len(calls) == 5: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        return inner(*given)\n"
        "plan.evaluators[0].denoiser = Stops()\n"
        "try: solve(plan, world, limits=Limits(1.0))\n"
        "except TransportError as error: print('raised', error, flush=True)\n"
        "os.kill(pids[1], signal.SIGKILL); os._exit(0)"
    )
    ended = launch(f"gmm:{mixture_file}", program=["-c", act], ranks=2, timeout=40)
    assert re.search(r"raised rank 1 on \S+ has been silent for \d+ s", ended.out), ended
