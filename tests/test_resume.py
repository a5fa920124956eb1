"""A run that ended anywhere goes on to the bits of one that was not disturbed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from launch import launch, ranks_of, start

from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.master import read_run

EMULATED = Path(__file__).parent.parent / "jobs" / "emulated.py"
COUNTS = ["--steps", 32, "--slices", 8, "--samples", 2, "--batching", "off", "--tolerance", 1e-6]
SLOW = {"EMULATED_MS": "20"}
FAST = {"EMULATED_MS": "0"}


def sample(folder, *more, model=f"{EMULATED}:factory", ranks=1, environment=FAST):
    given = ["sample", "--model", model, *COUNTS, "--out", folder, *more]
    return launch(*given, ranks=ranks, environment=environment)


def resume(folder, *more, ranks=1):
    return launch("resume", folder, *more, ranks=ranks, environment=FAST)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = sample(folder)
    assert ended.code == 0, ended
    return read_run(folder)


def begin(folder, *more, ranks=4):
    """Start a slow run and wait until it has begun."""
    given = ["sample", "--model", f"{EMULATED}:factory", *COUNTS, "--out", folder, *more]
    process = start(*given, ranks=ranks, environment=SLOW)
    deadline = time.monotonic() + 60
    while not (folder / "run.h5").exists():
        assert time.monotonic() < deadline, "the run did not begin"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def finish(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out + err


def check(folder, undisturbed, keep="boundary"):
    record = read_run(folder)
    assert record.facts["status"] == "finished"
    assert np.array_equal(record.samples, undisturbed.samples)
    assert np.array_equal(record.change, undisturbed.change)
    assert np.array_equal(record.stopped_at, undisturbed.stopped_at)
    if keep == "boundary":
        assert np.array_equal(record.boundary, undisturbed.boundary)


@pytest.mark.parametrize(("ranks", "again"), [(1, 2), (4, 3)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_every_rank_with_code_75_and_the_run_goes_on(
    tmp_path, undisturbed, number, ranks, again
):
    process = begin(tmp_path / "run", ranks=ranks)
    time.sleep(0.6)
    os.kill(ranks_of(tmp_path / "run")[-1], number)
    code, said = finish(process)
    assert code == 75, said
    assert "pint-diffusion resume" in said
    assert Manifest.read(tmp_path / "run").rows
    ended = resume(tmp_path / "run", ranks=again)
    assert ended.code == 0, ended
    check(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("trial", range(int(os.environ.get("KILLS", "20"))))
def test_a_killed_run_goes_on_on_any_number_of_ranks(tmp_path, undisturbed, trial):
    draw = np.random.default_rng(trial)
    folder = tmp_path / "run"
    keep = str(draw.choice(["boundary", "final"]))
    placement = str(draw.choice(["root", "slice"]))
    process = begin(folder, "--keep", keep, "--placement", placement)
    time.sleep(draw.uniform(0, 1.6))
    ranks = ranks_of(folder)
    for rank in ranks if draw.random() < 0.5 else draw.permutation(ranks)[:1]:
        os.kill(int(rank), signal.SIGKILL)
    finish(process)
    for _ in range(3):  # whatever was killed, in whatever state
        ended = resume(folder, ranks=int(draw.integers(1, 5)))
        assert ended.code == 0, ended
    check(folder, undisturbed, keep)
