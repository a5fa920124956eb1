"""The scripts of jobs/ do on a real Slurm what their comments say.

All are submitted as they are, with small settings by their variables, on four emulated nodes. They
compute the same run as one process does, whose bits all must end in.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.launch import launch, ranks_of
from helpers.slurm_cluster import CannotRunError, Cluster, install

from pint_diffusion.store.master import read_run

JOBS = Path(__file__).parents[2] / "jobs"
VARIABLES = {
    "PINT": f"{sys.executable} -m pint_diffusion",
    "MODEL": "jobs/emulated.py:factory",
    "STEPS": "32",
    "SLICES": "8",
    "SAMPLES": "2",
}
FLAGS = ["--batching", "off", "--tolerance", "1e-6"]

pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]


@dataclass
class Job:
    """A submitted job."""

    cluster: Cluster
    number: str
    process: subprocess.Popen
    folder: Path

    @property
    def log(self) -> str:
        """What it has written so far."""
        files = sorted(self.folder.glob("pint-*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()}" for file in files)

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        try:
            said, _ = self.process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"job {self.number} did not end: {self.about}\n{self.log}")
        print(said, self.about, self.log, self.cluster.logs(), sep="\n")  # shown if the test fails
        return self.process.returncode

    @property
    def about(self) -> dict[str, str]:
        """What Slurm knows of it."""
        return self.cluster.job(self.number)

    @property
    def restarts(self) -> int:
        """How often it was started anew."""
        return int(self.about["Restarts"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    given = [f"--{name.lower()}={VARIABLES[name]}" for name in ("STEPS", "SLICES", "SAMPLES")]
    model = f"{JOBS}/emulated.py:factory"
    fast = {"EMULATED_MS": "0"}
    ended = launch("sample", "--model", model, *given, *FLAGS, "--out", out, environment=fast)
    assert ended.code == 0, ended
    return read_run(out)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Submit everything at once: the longest job is cut by its time limit in the meantime."""
    try:
        install()
    except CannotRunError as error:
        reason = f"NO SCRIPT OF jobs/ WAS TESTED: {error}"
        if os.environ.get("PINT_CI") == "1":
            pytest.fail(f"{reason} (PINT_CI=1: not to be skipped)")
        pytest.skip(reason)
    with Cluster() as cluster:

        def submit(what, script, *options, flags=FLAGS, **variables):
            folder = tmp_path_factory.mktemp(what)
            shutil.copytree(JOBS, folder / "jobs")
            process = cluster.submit(
                *options,
                f"jobs/{script}.sbatch",
                *flags,
                environment=VARIABLES | variables,
                cwd=folder,
            )
            number = process.stdout.readline().split()[-1]  # "Submitted batch job 17"
            return Job(cluster, number, process, folder)

        yield {
            # Slurm looks at time limits every 30 s, and signals if 35 s or less are left
            "limited": submit(
                "limited", "requeue", "--time=1", "--signal=B:USR1@5", EMULATED_MS="700"
            ),
            "loser": submit("loser", "requeue", "--partition=spare", EMULATED_MS="300"),
            "killed": submit("killed", "requeue", EMULATED_MS="300"),
            "several": submit("several", "several_nodes", EMULATED_MS="5"),
            "single": submit("single", "single_node", EMULATED_MS="5"),
            "seeds": submit("seeds", "seeds", "--array=0-1", EMULATED_MS="0"),
            "wrong": submit("wrong", "requeue", flags=["--solver", "none"]),
        }


def check(folder, undisturbed):
    record = read_run(folder)
    assert record.facts["status"] == "finished"
    assert np.array_equal(record.samples, undisturbed.samples)
    assert np.array_equal(record.boundary, undisturbed.boundary)
    assert np.array_equal(record.change, undisturbed.change)


def test_every_script_is_submitted_here():
    tested = {"single_node", "several_nodes", "seeds", "requeue"}
    assert {path.stem for path in JOBS.glob("*.sbatch")} == tested


def test_a_lost_node_and_a_killed_rank_put_the_job_back_and_it_resumes(jobs, undisturbed):
    killed, loser = jobs["killed"], jobs["loser"]
    for job in (killed, loser):
        deadline = time.monotonic() + 90
        while iterations(job.folder / f"pint_run_{job.number}") < 1:
            assert time.monotonic() < deadline, (job.about, job.log)
            assert job.process.poll() is None, job.log
            time.sleep(0.1)
        if job is killed:
            ranks = ranks_of(Path(f"pint_run_{job.number}"))
            own = [rank for rank in ranks if Path(f"/proc/{rank}/cwd").readlink() == job.folder]
            os.kill(own[-1], signal.SIGKILL)
        else:
            assert job.about["NodeList"] == "n[3-4]"
            job.cluster.lose("n4")
    for job in (killed, loser):
        assert job.end() == 0
        assert job.restarts >= 1
        assert f"pint-diffusion resume pint_run_{job.number}" in job.log
        check(job.folder / f"pint_run_{job.number}", undisturbed)
    assert "n4" not in loser.about["NodeList"]


def iterations(run: Path) -> int:
    """How many iterations a run that is under way has written."""
    try:
        with h5py.File(run / "run.h5", "r", locking=False) as file:
            return int(file.attrs.get("iterations", 0))
    except OSError:
        return 0


def test_one_node(jobs, undisturbed):
    job = jobs["single"]
    assert job.end() == 0
    assert job.about["NumNodes"] == "1"
    assert re.search(r"^status +finished$", job.log, re.MULTILINE)
    run = job.folder / f"pint_run_{job.number}"
    assert read_run(run).facts["ranks"] == 4
    check(run, undisturbed)


def test_several_nodes_after_a_check(jobs, undisturbed):
    job = jobs["several"]
    assert job.end() == 0
    assert job.about["NumNodes"] == "2"
    assert "nothing is wrong" in job.log
    check(job.folder / f"pint_run_{job.number}", undisturbed)


def test_an_array_over_seeds(jobs, undisturbed):
    job = jobs["seeds"]
    assert job.end() == 0
    runs = sorted((job.folder / f"pint_seeds_{job.number}").iterdir())
    assert [run.name for run in runs] == [f"seed-{n}" for n in range(2)]
    check(runs[0], undisturbed)
    samples = [read_run(run).samples.tobytes() for run in runs]
    assert len(set(samples)) == 2


def test_what_would_go_wrong_again_is_not_requeued(jobs):
    job = jobs["wrong"]
    assert job.end() in (2, 143)  # 143: srun ended a rank that was slower to end by itself
    assert job.restarts == 0
    assert "--solver" in job.log


def test_a_run_cut_by_its_time_limit_requeues_itself_and_ends_in_the_same_bits(jobs, undisturbed):
    job = jobs["limited"]
    assert job.end() == 0
    assert job.restarts >= 1
    assert re.search("exit code (75|143): back into the queue", job.log)  # 143: as above
    assert f"pint-diffusion resume pint_run_{job.number}" in job.log
    check(job.folder / f"pint_run_{job.number}", undisturbed)
