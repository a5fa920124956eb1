"""Nothing grows: neither from run to run in one process, nor from iteration to iteration of a run.

A short version; `make soak` makes 2000 runs, 300 on two ranks, and a run of 10000 rounds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import soak
from helpers.launch import launch

WHOLE = os.environ.get("SOAK") == "1"
HOURS = 3600

A_RUN = {"memory": 0.5, "kilobytes": 0}
AN_ITERATION = {"memory": 2, "kilobytes": 0.2}
"""Kilobytes that one more may take: the allocator's rest; and what a run records of an iteration,
which is two events, the change of every sample, and their names in the manifest."""

WARM = {"memory": 4096, "kilobytes": 64, "descriptors": 2, "files": 40}
"""Differences between any two moments of a run; of all else there is none."""


@pytest.mark.timeout(2 * HOURS)
@pytest.mark.parametrize(
    ("what", "count", "ranks", "each"),
    [
        ("runs", 2000 if WHOLE else 50, 1, A_RUN),
        ("runs", 300 if WHOLE else 20, 2, A_RUN),
        ("rounds", 10_000 if WHOLE else 300, 1, AN_ITERATION),
        ("slices", 300 if WHOLE else 40, 1, AN_ITERATION),
    ],
)
def test_nothing_grows(tmp_path, what, count, ranks, each):
    program = [str(Path(soak.__file__)), what, str(count), str(tmp_path / "run")]
    ended = launch(program=program, ranks=ranks, timeout=HOURS)
    assert ended.code == 0, ended
    told = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    assert [one["done"] for one in told] == [count // 10 * at for at in range(1, 11)]
    first, last = told[: len(told) // 2], told[len(told) // 2 :]
    print(f"{what} {count} on {ranks}: {told[0]} ... {told[-1]}")
    for name in told[0]:
        more = max(one[name] for one in last) - max(one[name] for one in first)
        allowed = WARM.get(name, 0) + each.get(name, 0) * count
        assert name == "done" or more <= allowed, (name, [one[name] for one in told])
    if what == "runs":
        assert told[-1]["communicators"] == 0
        assert told[-1]["children"] == 0
