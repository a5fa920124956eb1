"""Faults x moments x methods x transports: each run ends as `helpers.faults` says, and goes on.

A draw of 60 cases; `make faults` makes them all, and those that need several hosts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import sys
import time
from functools import cache

import numpy as np
import pytest
from helpers import faulty
from helpers.disk import mounting
from helpers.faults import CALL_LIMIT, LOAD_LIMIT, METHODS, WATCHDOG, Case, cases, draw
from helpers.forked import fork
from helpers.hosts import CannotRunError, Hosts
from helpers.launch import ranks_of, start

from pint_diffusion.commands.cli import main
from pint_diffusion.store.master import read_run
from pint_diffusion.store.names import LOCK

WHOLE = os.environ.get("FAULTS") == "1"
RUN = ["--model", f"{faulty.__file__}:factory", "--steps", 24, "--samples", 2, "--batching", "off"]
RUN += ["--checkpoint-every", 0]
LIMITS = {
    "stop": ["--watchdog", WATCHDOG, "--load-limit", LOAD_LIMIT],
    "hang": ["--call-limit", CALL_LIMIT, "--load-limit", LOAD_LIMIT],
    "spin": ["--watchdog", WATCHDOG, "--call-limit", CALL_LIMIT, "--load-limit", LOAD_LIMIT],
    "lost host": ["--watchdog", WATCHDOG],
    "network cut": ["--watchdog", 20],
}
"""Only where they are to end a run: a machine with other work has pauses of its own."""

MIDDLE = {"parareal-root": 14, "parareal-slice": 14, "chords": 14}
"""Number of a rank's network call that is in mid-run; or 10."""

LATE = 30
"""Seconds by which a machine with other work may be late."""

DISK = 1 << 24
CUT = 5


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    @cache
    def record(method):
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        assert sample(folder, METHODS[method]) == 0
        return read_run(folder)

    return record


def sample(folder, given):
    return main(["sample", *map(str, [*RUN, *given, "--out", folder])])


class Job:
    """The run of a case: one process, or mpiexec and its ranks."""

    def __init__(self, case, given, environment, said):
        self.said = None
        if case.transport == "local" and not WHOLE:
            self.said = said
            self.process = fork(given, environment, said)
        else:
            ranks = 1 if case.transport == "local" else 2
            self.process = start(*given, ranks=ranks, environment=environment)

    @property
    def runs(self):
        return self.process.exitcode is None if self.said else self.process.poll() is None

    def ended(self, seconds):
        """Return exit code and what was said; None for the code if it had to be ended."""
        deadline = time.monotonic() + seconds
        while self.runs and time.monotonic() < deadline:
            time.sleep(0.02)
        late = self.runs
        if late:
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.said:
            self.process.join()
            code, said = self.process.exitcode, self.said.read_text()
        else:
            said = "".join(reversed(self.process.communicate(timeout=20)))
            code = self.process.returncode
        return None if late else code, said


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", cases(across=False) if WHOLE else draw(60), ids=str)
def test_a_run_ends_as_it_must_and_goes_on_to_the_same_bits(
    case, tmp_path, undisturbed, record_property
):
    marker = tmp_path / "sprung"
    with mounting(tmp_path / "disk") as mount:
        at = mount(DISK) if case.fault == "full disk" else tmp_path
        met = environment(case, at / "run", marker)
        job = Job(case, arguments(case, at / "run"), met, tmp_path / "said")
        pid = sprung(marker, job)
        begun = time.monotonic()
        if case.fault == "stop" and case.transport == "local":
            time.sleep(2)
            os.kill(pid, signal.SIGCONT)
        code, said = job.ended(longest(case))
        outcome = judge(case, code, said, time.monotonic() - begun)
        assert ranks_left(at / "run") == []
        (at / "filler").unlink(missing_ok=True)
        if (at / "moved").exists():
            assert not (at / "run").exists()
            (at / "moved").rename(at / "run")
        go_on(case, at / "run", undisturbed)
    record_property("outcome", f"{case.fault}: {outcome}")


@pytest.mark.parametrize("fault", ["hang", "spin"])
def test_a_run_ends_though_nobody_reads_what_it_says(tmp_path, fault):
    case = Case(fault, "first", "window", "local")
    met = environment(case, tmp_path / "run", tmp_path / "sprung")
    job = start(*arguments(case, tmp_path / "run"), environment=met)
    sprung(tmp_path / "sprung", job)
    job.stderr.close()
    job.stdout.close()
    assert job.wait(longest(case)) != 0


@pytest.fixture
def hosts():
    try:
        with Hosts(2, delay=1e-3, rate=1e9) as up:
            yield up
    except CannotRunError as error:
        pytest.fail(f"NOTHING WAS TESTED BETWEEN HOSTS: {error}")


def arguments(case, folder):
    given = ["sample", *RUN, *METHODS[case.method], *LIMITS.get(case.fault, []), "--out", folder]
    return [*given, *(["--verify"] if case.moment == "verify" else [])]


def environment(case, folder, marker):
    return {
        "FAULT": case.fault,
        "MOMENT": case.moment,
        "FAULT_RANK": str(case.rank),
        "MIDDLE": str(MIDDLE.get(case.method, 10)),
        "FAULT_DISK": str(folder.parent / "filler"),
        "FAULT_FOLDER": str(folder),
        "SPRUNG": str(marker),
    }


def sprung(marker, job):
    """Wait for the fault; return the id of its process."""
    deadline = time.monotonic() + 100
    while not marker.exists():
        running = job.runs if isinstance(job, Job) else job.poll() is None
        if not running or time.monotonic() > deadline:
            time.sleep(0.1)
            said = job.ended(0) if isinstance(job, Job) else job.communicate()
            assert marker.exists(), f"there was no fault: {said}"
        time.sleep(0.01)
    return int(marker.read_text())


def longest(case):
    return max(end.seconds for end in case.ends) + LATE


def judge(case, code, said, seconds):
    """See whether a run has ended as it must; return how."""
    assert code is not None, f"it did not end within {seconds:.0f} s: {said}"
    right = [
        end
        for end in case.ends
        if code in end.codes and re.search(end.says.format(rank=case.rank), said)
    ]
    assert right, f"{case.ends} on rank {case.rank}: it ended with {code} and said {said}"
    assert seconds < right[0].seconds + LATE
    told = [line for line in said.splitlines() if "pint-diffusion: error" in line]
    assert len(told) <= 1, said
    assert "Traceback" not in said or case.fault == "raise", said
    return right[0].outcome


def ranks_left(folder):
    """Return the processes that are left soon after: the launcher ends those that are.

    One that is being killed has no name any more, but for a moment has its files.
    """
    deadline = time.monotonic() + LATE
    while (left := [*ranks_of(folder), *holders(folder)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def holders(folder):
    """Return the lock of a folder, if it is held."""
    with contextlib.suppress(FileNotFoundError), open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return [LOCK]
    return []


def go_on(case, folder, undisturbed):
    """Resume the run in one process, or begin it if nothing was begun; compare the bits."""
    if (folder / "run.h5").exists():
        assert main(["resume", str(folder)]) == 0
    else:
        assert sample(folder, METHODS[case.method]) == 0
    record, expected = read_run(folder), undisturbed(case.method)
    assert record.facts["status"] == "finished"
    assert np.array_equal(record.samples, expected.samples)
    if case.method.startswith("parareal"):
        assert len(record.boundary) == len(expected.boundary)
        assert np.array_equal(record.boundary[-1], expected.boundary[-1])


if WHOLE:  # they take their time

    @pytest.mark.alone
    @pytest.mark.timeout(240)
    @pytest.mark.parametrize("case", cases(across=True), ids=str)
    def test_a_run_on_two_hosts_ends_as_it_must_and_goes_on_to_the_same_bits(
        case, tmp_path, undisturbed, record_property, hosts
    ):
        folder, marker = tmp_path / "run", tmp_path / "sprung"
        command = [sys.executable, "-m", "pint_diffusion", *map(str, arguments(case, folder))]
        process = hosts.start(2, command, **environment(case, folder, marker))
        sprung(marker, process)
        hosts.cut(hosts.names[case.rank])
        begun = time.monotonic()
        if case.fault == "network cut":
            time.sleep(CUT)
            hosts.mend(hosts.names[case.rank])
        deadline = begun + longest(case)
        here = [name for at, name in enumerate(hosts.names) if at != case.rank]
        while hosts.processes(*here) and time.monotonic() < deadline:
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        if case.fault == "lost host":
            hosts.end(hosts.names[case.rank])
        said = "".join(process.communicate(timeout=30))
        outcome = judge(case, process.returncode, said, seconds)
        go_on(case, folder, undisturbed)
        record_property("outcome", f"{case.fault}: {outcome}")
