"""Runs over several hosts: the bits of one process, and an end when a host is gone.

Four emulated hosts, 1 ms and 1 Gbit/s apart, two ranks on each. How long the wavefront takes there
is measured by `benchmarks/four_hosts.py`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import networks
from helpers.hosts import CannotRunError, Hosts
from helpers.launch import launch

from pint_diffusion.commands.silence import GRACE
from pint_diffusion.store.master import read_run

PROGRAM = [sys.executable, "-m", "pint_diffusion", "sample"]
LARGE = Path(__file__).parents[2] / "benchmarks" / "four_hosts.py"
NETWORKS = Path(networks.__file__)

pytestmark = [pytest.mark.timeout(200), pytest.mark.alone]


@pytest.fixture
def hosts():
    try:
        with Hosts(4, delay=1e-3, rate=1e9) as up:
            yield up
    except CannotRunError as error:
        reason = f"NOTHING WAS TESTED BETWEEN HOSTS: {error}"
        if os.environ.get("PINT_CI") == "1":
            pytest.fail(f"{reason} (PINT_CI=1: not to be skipped)")
        pytest.skip(reason)


@pytest.mark.parametrize("placement", ["root", "slice"])
def test_eight_ranks_on_four_hosts_end_in_the_bits_of_one_process(tmp_path, hosts, placement):
    """States of 1 MB: too long for a message that waits in a buffer of MPI."""
    given = ["--steps=24", "--slices=8", "--samples=1", "--max-iterations=3", "--tolerance=1e-9"]
    given += ["--batching=off", f"--placement={placement}", f"--model={LARGE}:factory"]
    fast = {"EMULATED_MS": "10", "EMULATED_SIDE": "512"}
    job = hosts.start(8, [*PROGRAM, *given, f"--out={tmp_path}/hosts"], **fast)
    alone = launch("sample", *given, "--out", tmp_path / "one", environment=fast)
    said = job.communicate(timeout=100)
    assert (job.returncode, alone.code) == (3, 3), (said, alone)  # 3: tolerance not met
    one, many = read_run(tmp_path / "one"), read_run(tmp_path / "hosts")
    assert many.facts["ranks"] == 8
    assert many.facts["hosts"] == [name for name in hosts.names for _ in range(2)]
    assert np.array_equal(many.samples, one.samples)
    assert np.array_equal(many.boundary, one.boundary)
    assert np.array_equal(many.change, one.change)


@pytest.mark.parametrize("lost", ["h1", "h3"])
def test_a_host_taken_off_the_network_is_named_and_ends_the_run_on_all_others(
    tmp_path, hosts, lost
):
    """Also when it is that of rank 0 and of mpiexec, which no launcher can end."""
    given = [f"--model={NETWORKS}:slow", "--steps=800", "--slices=8", "--watchdog=3"]
    given += ["--tolerance=1e-12", "--placement=slice", f"--out={tmp_path}/run"]
    job = hosts.start(8, [*PROGRAM, *given])
    wait_for(lambda: is_under_way(tmp_path / "run" / "run.h5"), 90, job)
    hosts.cut(lost)
    others = [name for name in hosts.names if name != lost]
    wait_for(lambda: not hosts.processes(*others), 3 + GRACE + 7, job)
    with h5py.File(tmp_path / "run" / "run.h5") as run:
        status = run.attrs["status"]
    found = re.match(r"failed: rank (\d) on h(\d) has been silent", status)
    assert found, status
    rank, host = int(found[1]), int(found[2])
    assert rank // 2 == host - 1
    assert (f"h{host}" == lost) != (lost == "h1")  # who is cut off sees the others silent


def is_under_way(path: Path) -> bool:
    """Whether u_M^0 is there."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return int(file.attrs.get("iterations", -1)) >= 0
    except OSError:
        return False


def wait_for(what, seconds: float, job) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            job.kill()
            pytest.fail(f"not within {seconds} s: {job.communicate()}")
        time.sleep(0.1)
