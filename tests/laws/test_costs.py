"""What a round and an evaluation ask of a device, beside the network: pinned, and never more."""

from __future__ import annotations

import pytest
import torch
from helpers.counts import Counter, Counts, Uneven, evaluation_counted, rounds_counted

WINDOW = {"window": 32}
BLOCKS = {"slices": 2}
MOST = {
    "window": (WINDOW, 690, 480),
    "paradigms": (WINDOW, 350, 290),
    "parataa": (WINDOW, 500, 430),
    "piadm": (BLOCKS, 420, 390),
}
"""Options that make windows of 32 points; most dispatches of a round, and of one in the mean."""


@pytest.mark.parametrize("samples", [1, 16])
@pytest.mark.parametrize("method", MOST)
def test_a_round_of_32_points_takes_two_copies_and_two_reads_and_few_dispatches(method, samples):
    options, most, mean = MOST[method]
    rounds = rounds_counted(method=method, samples=samples, **options)
    assert len(rounds) > 3
    assert max(one.dispatches for one in rounds) <= most
    assert sum(one.dispatches for one in rounds) / len(rounds) <= mean
    assert max(one.copies for one in rounds) <= 2
    assert max(one.reads for one in rounds) <= 2


@pytest.mark.parametrize("method", ["window", "paradigms", "parataa"])
def test_samples_that_slide_differently_are_swept_together(method):
    few, many = (
        [one.dispatches for one in rounds_counted(Uneven, method=method, samples=s, window=32)]
        for s in (1, 16)
    )
    assert sum(many) / len(many) < 1.5 * sum(few) / len(few)


@pytest.mark.parametrize(("batching", "most"), [("off", 22), ("auto", 10)])
def test_an_evaluation_of_parareal_takes_one_read_and_no_copy_that_blocks(batching, most):
    made = evaluation_counted(method="parareal", batching=batching, samples=4, slices=8)
    assert made.dispatches <= most
    assert made.copies <= 0.5  # of levels seen for the first time
    assert made.reads <= 1.1  # and one for the change of an answer


def test_the_counter_counts():
    x = torch.ones(3)
    with Counter() as counter:
        x.to(torch.device("cpu"))
        x[[0, 1]]
        float((x + 1).sum())
    assert counter.now() == Counts(counter.now().dispatches, 2, 1)
    assert counter.now().dispatches >= 4
