"""The pipeline is real: agreement tests stay green when a change makes the ranks lockstep."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.networks import Contraction
from helpers.runs import run

from pint_diffusion.runtime.events import EVALUATION_KINDS

ATTEMPTS = 3
"""Noise of the machine only ever adds time, so the best of a few runs is what is judged."""


@pytest.mark.mpi(min_size=8)
@pytest.mark.parametrize("placement", ["root", "slice"])
def test_eight_ranks_finish_within_a_tenth_of_the_dataflow_bound(placement):
    from pint_diffusion.runtime.world import open_world

    world = open_world("mpi")
    slices, length, iterations, seconds = 8, 8, 3, 0.1
    bound = (iterations * length + slices - iterations) * seconds
    for attempt in range(ATTEMPTS):
        done = run(
            world, Contraction(seconds=seconds), steps=slices * length, slices=slices,
            placement=placement, max_iterations=iterations, tolerance=1e-300, samples=2,
        )  # fmt: skip
        wall = world.share(done.result.wall_time)
        if wall <= 1.10 * bound:
            break
        print(f"attempt {attempt}: {wall:.3f} s, {wall / bound:.3f} of the bound")
    assert wall <= 1.10 * bound
    assert_iterations_overlap(done.events)


@pytest.mark.parametrize("placement", ["root", "slice"])
def test_an_iteration_begins_before_the_one_before_it_has_ended(world, placement):
    slices = max(world.size, 4)
    done = run(
        world, Contraction(seconds=0.01), steps=slices * 4, slices=slices, max_iterations=3,
        tolerance=1e-300, placement=placement, samples=1,
    )  # fmt: skip
    assert_iterations_overlap(done.events)


@pytest.mark.parametrize("placement", ["root", "slice"])
def test_a_run_ends_also_when_it_stops_while_a_rank_waits_to_share_a_call(world, placement):
    for seed in range(25):
        done = run(
            world, Contraction(seconds=0.002), steps=24, slices=8, tolerance=2.0, seed=seed,
            placement=placement, samples=1,
        )  # fmt: skip
        assert done.outcome.converged


def assert_iterations_overlap(events):
    made = events[np.isin(events["kind"], EVALUATION_KINDS)]
    for k in range(made["iteration"].max() - 1):
        first_of_next = made[made["iteration"] == k + 1]["start"].min()
        last_of_this = made[made["iteration"] == k]["stop"].max()
        assert first_of_next < last_of_this
