"""Laws of schedules, spacings, slices and grid files; the spacings are those of diffusers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pint_diffusion.errors import InputError
from pint_diffusion.grid import (
    NoiseSchedule,
    Spacing,
    TimeGrid,
    default_slices,
    even_bounds,
    make_grid,
)

# --- schedules -----------------------------------------------------------------------------------


def test_schedule_gives_training_values_at_whole_timesteps_to_the_bit():
    schedule = NoiseSchedule.ddpm_linear(1000)
    got = schedule.alpha_bar(np.arange(1000))
    assert np.array_equal(got, schedule.alphas_cumprod)
    assert np.array_equal(got, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    assert schedule.training_steps == 1000


def test_schedule_is_clean_one_step_below_the_first():
    assert NoiseSchedule.ddpm_linear().alpha_bar(-1.0) == 1.0


@given(st.integers(-1, 98), st.floats(0, 1))
def test_schedule_is_linear_in_log_alpha_bar_between_timesteps(j, part):
    schedule = NoiseSchedule.ddpm_linear(100)
    low, high = np.log(schedule.alpha_bar([j, j + 1]))
    got = np.log(schedule.alpha_bar(j + part))
    assert got == pytest.approx(low + part * (high - low), rel=1e-12, abs=1e-12)


@given(st.lists(st.floats(-1, 99), min_size=2, max_size=20))
def test_schedule_falls_with_the_timestep(t):
    values = NoiseSchedule.ddpm_linear(100).alpha_bar(np.sort(t))
    assert (np.diff(values) <= 0).all()
    assert ((values > 0) & (values <= 1)).all()


@pytest.mark.parametrize("t", [-1.01, 999.5, np.nextafter(999, 1000)])
def test_schedule_refuses_timesteps_outside(t):
    with pytest.raises(InputError, match="outside the schedule"):
        NoiseSchedule.ddpm_linear().alpha_bar([0.0, t])


@pytest.mark.parametrize(
    "values",
    [
        *(0.5, [], [0.5], [[0.9, 0.1]], [0.1, 0.9], [0.9, 0.9], [1.0, 0.5], [0.5, 0.0]),
        *([0.5, -0.1], [0.9, np.nan, 0.1], [np.inf, 0.1], [0.9, 0.1, 0.2]),
    ],
    ids=str,
)
def test_schedule_refuses_what_does_not_fall_inside_zero_and_one(values):
    with pytest.raises(InputError, match="alphas_cumprod"):
        NoiseSchedule(values)


@given(st.integers(1, 3000))
def test_trailing_levels_run_evenly_from_the_noisiest_to_the_clean_level(steps):
    schedule = NoiseSchedule.ddpm_linear(1000)
    levels = Spacing().levels(schedule, steps)
    assert len(levels) == steps + 1
    assert levels[0] == (999.0, schedule.alphas_cumprod[-1])
    assert levels[-1] == (-1.0, 1.0)
    assert np.diff([level.t for level in levels]) == pytest.approx(-1000 / steps)
    assert (np.diff([level.alpha_bar for level in levels]) > 0).all()


@given(st.integers(1, 2000), st.data())
def test_even_bounds_cut_all_steps_into_parts_that_differ_by_at_most_one(steps, data):
    slices = data.draw(st.integers(1, steps))
    sizes = np.diff(even_bounds(steps, slices))
    assert len(sizes) == slices
    assert sizes.sum() == steps
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(("steps", "slices"), [(4, 0), (4, -1), (4, 5), (0, 1)])
def test_even_bounds_refuse_empty_slices(steps, slices):
    with pytest.raises(InputError, match="slices"):
        even_bounds(steps, slices)


@given(st.integers(1, 60), st.data())
def test_slices_join_into_the_whole_walk_and_coarse_levels_are_fine_levels(steps, data):
    slices = data.draw(st.integers(1, steps))
    grid = make_grid(NoiseSchedule.ddpm_linear(), steps, slices)
    assert (grid.steps, grid.slices) == (steps, slices)
    walk = [grid.levels[0]]
    wanted = data.draw(st.integers(1, 10))
    coarsened = grid.coarsened(wanted)
    for n in range(slices):
        fine = grid.fine(n)
        assert fine[0] == walk[-1]
        walk += fine[1:]
        coarse = coarsened.fine(n)
        assert (coarse[0], coarse[-1]) == (fine[0], fine[-1])
        assert len(coarse) == min(wanted, len(fine) - 1) + 1
        places = [fine.index(level) for level in coarse]
        assert np.ptp(np.diff(places)) <= 1
    assert tuple(walk) == grid.levels


def test_grid_takes_uneven_bounds():
    grid = make_grid(NoiseSchedule.ddpm_linear(), 10, 2, [0, 3, 4, 10])
    assert [len(grid.fine(n)) for n in range(grid.slices)] == [4, 2, 7]


@pytest.mark.parametrize("bounds", [(), (0,), (0, 9), (1, 10), (0, 5, 5, 10), (0, 7, 5, 10)])
def test_grid_refuses_bounds_that_do_not_rise_from_zero_to_the_steps(bounds):
    with pytest.raises(InputError, match="boundaries"):
        make_grid(NoiseSchedule.ddpm_linear(), 10, 2, bounds)


def test_grid_refuses_levels_that_do_not_rise():
    levels = Spacing().levels(NoiseSchedule.ddpm_linear(), 3)
    with pytest.raises(InputError, match="alpha_bar"):
        TimeGrid(levels[::-1], (0, 3))


def test_a_walk_needs_a_step():
    with pytest.raises(InputError, match="steps"):
        Spacing().levels(NoiseSchedule.ddpm_linear(), 0)


@pytest.mark.parametrize(
    ("steps", "ranks", "slices"), [(16, 1, 4), (17, 1, 4), (1, 1, 1), (100, 8, 8)]
)
def test_slices_default_to_the_ranks_or_the_root_of_the_steps(steps, ranks, slices):
    assert default_slices(steps, ranks) == slices
