"""Laws are tested on every transport; the MPI ones under mpiexec, one pass per rank count.

    mpiexec -n 4 python -m mpi4py -m pytest --with-mpi --ranks 4 -m mpi tests

A pass runs the MPI tests that 4 ranks are enough for. An MPI test that is run on too few ranks
fails: a skip would hide that nothing was tested.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pint_diffusion.runtime.launcher import read_launcher
from pint_diffusion.runtime.world import LocalWorld, World, open_world


def pytest_addoption(parser):
    parser.addoption("--ranks", type=int, help="rank count of this pass, to be held by mpiexec")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    ranks = config.getoption("--ranks")
    launcher = read_launcher()
    if ranks is not None and (launcher is None or launcher.size != ranks):
        started = launcher.size if launcher else "no launcher and 1"
        raise pytest.UsageError(f"--ranks {ranks}, but {started} process(es) were started")
    if launcher is not None and launcher.rank > 0:
        config.pluginmanager.unregister(name="terminalreporter")
    if config.getoption("--with-mpi"):
        open_world("mpi")  # on every rank or on none: a rank that starts MPI alone waits for ever
    torch.set_num_threads(1)


def pytest_runtest_logreport(report):
    launcher = read_launcher()
    if report.failed and launcher is not None and launcher.rank > 0:
        print(f"rank {launcher.rank}: {report.nodeid}\n{report.longreprtext}", file=sys.stderr)


def pytest_ignore_collect(collection_path, config):
    """Spare every rank of a pass the import of what holds no MPI test: those name world, or mpi."""
    if config.getoption("--ranks") is None or collection_path.suffix != ".py":
        return None
    named = re.search(r"(?<!\.)\bworld\b|mark\.mpi", collection_path.read_text(encoding="utf-8"))
    return None if named else True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    ranks = config.getoption("--ranks")
    if ranks is not None:
        too_big = [item for item in items if needed_ranks(item) > ranks]
        config.hook.pytest_deselected(items=too_big)
        items[:] = [item for item in items if item not in too_big]
    for item in items:  # pytest-mpi would skip these
        item.own_markers = [
            mark for mark in item.own_markers if "--with-mpi" not in mark.kwargs.get("reason", "")
        ]


def needed_ranks(item) -> int:
    mark = item.get_closest_marker("mpi")
    return mark.kwargs.get("min_size", 1) if mark else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    needed = needed_ranks(item)
    launcher = read_launcher()
    if needed and not (item.config.getoption("--with-mpi") and launcher):
        pytest.fail("an MPI test, to be run under mpiexec with --with-mpi: see make test")
    if needed and launcher.size < needed:
        pytest.fail(f"needs {needed} ranks and has {launcher.size}")


@pytest.fixture(params=["local", pytest.param("mpi", marks=pytest.mark.mpi)])
def world(request) -> World:
    """Every rank of the pass, or this process alone."""
    return open_world(request.param) if request.param == "mpi" else LocalWorld()


@pytest.fixture(scope="session")
def mixture_file(tmp_path_factory) -> Path:
    """A mixture of five Gaussians over (1, 3, 2) pictures, as a file."""
    draw = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("mixture") / "mixture.npz"
    np.savez(
        path,
        means=draw.uniform(-1, 1, (5, 1, 3, 2)),
        variances=draw.uniform(0.01, 0.2, 5),
        weights=np.array([0.1, 0.3, 0.2, 0.25, 0.15]),
    )
    return path
