"""An MPI test that was not given the ranks it needs fails; it is not skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.launch import launch

WAVEFRONT = Path(__file__).parents[1] / "laws" / "test_wavefront.py"
NEEDS_8 = f"{WAVEFRONT}::test_eight_ranks_finish_within_a_tenth_of_the_dataflow_bound"


@pytest.mark.parametrize(
    ("ranks", "options", "says"),
    [
        (1, [], "an MPI test, to be run under mpiexec"),
        (2, ["--with-mpi"], "needs 8 ranks and has 2"),
        (2, ["--with-mpi", "--ranks", "8"], "--ranks 8, but 2 process(es) were started"),
    ],
)
def test_too_few_ranks_fail_the_session(ranks, options, says):
    program = ["-m", "mpi4py"] if ranks > 1 else []
    program += ["-m", "pytest", "-p", "no:cacheprovider", "-x", NEEDS_8, *options]
    ended = launch(ranks=ranks, program=program)
    assert ended.code != 0
    assert says in ended.out + ended.err
    assert "skipped" not in ended.out
