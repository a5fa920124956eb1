"""Laws of schedules, spacings, slices and grid files; the spacings are those of diffusers."""

from __future__ import annotations

from itertools import combinations, pairwise

import h5py
import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from helpers.flat import settings_of
from helpers.grids import grid_of, make_grid
from helpers.launch import launch
from hypothesis import given, settings
from hypothesis import strategies as st

from pint_diffusion.errors import InputError
from pint_diffusion.grid import (
    SLICINGS,
    SPACINGS,
    FlowSchedule,
    Level,
    NoiseSchedule,
    SigmaSchedule,
    Spacing,
    TimeGrid,
    even_bounds,
    level_of_sigma,
    read_grid,
    write_grid,
)
from pint_diffusion.grid.gits import best_path, jump_costs
from pint_diffusion.grid.spacing import IN_SIGMA
from pint_diffusion.grid.teacher import measured_costs, walk_teacher
from pint_diffusion.methods import PIADM
from pint_diffusion.methods.method import Sliced
from pint_diffusion.models.mixture import GaussianMixture
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.settings.flags import with_flags
from pint_diffusion.settings.grid import GridSettings
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings

DDPM = NoiseSchedule.ddpm_linear()
FLOW = FlowSchedule(1000)
EDM = SigmaSchedule(0.002, 80)
ALL = {"noise": DDPM, "short": NoiseSchedule.ddpm_linear(50), "flow": FLOW, "edm": EDM}


def one_sentence(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


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


@pytest.mark.parametrize("name", ALL)
@given(part=st.floats(0, 1))
def test_a_schedule_finds_the_timestep_of_a_level(name, part):
    schedule = ALL[name]
    t = schedule.clean + part * (schedule.first - schedule.clean)
    span = schedule.first - schedule.clean
    found = float(schedule.timestep(schedule.alpha_bar(t)))
    if isinstance(schedule, NoiseSchedule):  # log alpha_bar one way, log sigma the other
        assert found == pytest.approx(t, abs=0.1 if schedule.training_steps == 1000 else 1)
        t = round(t)
        found = float(schedule.timestep(schedule.alpha_bar(t)))
    # below sigma = 1e-8 alpha_bar is 1 in float64
    assert found == pytest.approx(t, rel=1e-7, abs=1e-7 * span)
    assert schedule.alpha_bar(schedule.clean) == 1
    assert schedule.clean < schedule.least < schedule.first


@pytest.mark.parametrize("name", ALL)
@given(part=st.floats(0.001, 1))
def test_the_level_of_a_sigma_has_that_sigma(name, part):
    sigma = part * min(float(level_of(ALL[name], ALL[name].first).sigma), 100.0)
    assert level_of_sigma(ALL[name], sigma).sigma == pytest.approx(sigma, rel=1e-6)


def level_of(schedule, t) -> Level:
    return Level(t, float(schedule.alpha_bar(t)))


@pytest.mark.parametrize("name", ["noise", "edm"])
def test_a_level_noisier_than_the_noisiest_is_refused(name):
    noisiest = level_of(ALL[name], ALL[name].first)
    with pytest.raises(InputError, match="outside the schedule"):
        level_of_sigma(ALL[name], 1.01 * noisiest.sigma)


@pytest.mark.parametrize("ends", [(0, 1), (1, 1), (2, 1), (0.1, np.inf), (np.nan, 1)])
def test_a_range_of_sigma_must_rise_and_be_finite(ends):
    with pytest.raises(InputError, match="sigma_range"):
        SigmaSchedule(*ends)


# --- spacings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", ["clean", "least"])
@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("name", SPACINGS)
@settings(max_examples=30)
@given(steps=st.integers(1, 300))
def test_every_spacing_falls_from_noise_to_its_end_in_as_many_steps(name, schedule, final, steps):
    on = ALL[schedule]
    in_sigma = name in IN_SIGMA
    top = 500.0 if in_sigma and schedule == "flow" else None
    spacing = Spacing(name, final=final, sigma_max=top)
    if (
        name == "trailing"
        and final == "least"
        and on.first - on.clean <= steps * (on.least - on.clean)
    ):
        with pytest.raises(InputError, match="one place") as error:
            spacing.levels(on, steps)
        one_sentence(error)
        return
    levels = spacing.levels(on, steps)
    assert len(levels) == steps + 1
    assert (np.diff([level.alpha_bar for level in levels]) > 0).all()
    assert (np.diff([level.t for level in levels]) < 0).all()
    least = level_of(on, on.least)
    if final == "clean":
        assert levels[-1] == (on.clean, 1.0)
    else:
        assert levels[-1].sigma == pytest.approx(least.sigma, rel=1e-9)
    if top is not None:
        assert levels[0].sigma == pytest.approx(top)
    elif "leading" not in name and not (name == "linspace" and steps == 1 and final == "clean"):
        assert levels[0] == pytest.approx(level_of(on, on.first), rel=1e-9)


@given(steps=st.integers(2, 300), low=st.floats(1e-3, 1), ratio=st.floats(1.5, 100))
@pytest.mark.parametrize("name", IN_SIGMA)
def test_a_spacing_in_sigma_keeps_to_its_ends(name, steps, low, ratio):
    levels = Spacing(name, sigma_min=low, sigma_max=low * ratio).levels(DDPM, steps)
    assert levels[0].sigma == pytest.approx(low * ratio, rel=1e-7)
    assert levels[-2].sigma == pytest.approx(low, rel=1e-7)


def test_exponential_is_even_in_the_signal_to_noise_ratio_and_is_also_called_logsnr():
    assert SPACINGS["logsnr"] is SPACINGS["exponential"]
    levels = Spacing("logsnr").levels(DDPM, 30)
    assert np.ptp(np.diff([level.lam for level in levels[:-1]])) < 1e-9


def test_karras_is_even_in_a_root_of_sigma():
    levels = Spacing("karras", rho=3, sigma_max=50, sigma_min=0.1).levels(DDPM, 12)
    assert np.ptp(np.diff([level.sigma ** (1 / 3) for level in levels[:-1]])) < 1e-9


def ou_times(levels) -> np.ndarray:
    return -np.log([level.alpha_bar for level in levels])


@given(steps=st.integers(2, 500), low=st.floats(1e-3, 0.9), high=st.floats(1, 100))
def test_ou_steps_are_as_long_as_the_time_that_is_left_but_never_longer_than_the_first(
    steps, low, high
):
    time = ou_times(Spacing("ou", sigma_max=high, sigma_min=low, final="least").levels(DDPM, steps))
    clock = np.where(time > 1, time - 1, np.log(np.minimum(time, 1)))
    assert np.diff(clock) == pytest.approx((clock[-1] - clock[0]) / steps, rel=1e-6, abs=1e-9)
    step = (clock[0] - clock[-1]) / steps
    lengths = -np.diff(time)
    assert (lengths <= step * np.minimum(1, time[:-1]) * (1 + 1e-6)).all()
    whole = lengths[time[1:] >= 1]
    assert whole == pytest.approx(np.full(whole.size, step), rel=1e-6)


def test_an_early_stop_ends_at_its_ornstein_uhlenbeck_time():
    levels = Spacing("ou", sigma_min=0.1, final="least").levels(DDPM, 40)
    noisiest = -np.log(DDPM.alphas_cumprod[-1])
    assert ou_times(levels)[[0, -1]] == pytest.approx([noisiest, np.log(1.01)], rel=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 25, 30, 48, 50, 64, 96, 100, 333, 500, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_whole_timesteps_are_those_of_the_ddim_and_ddpm_schedulers(kind, spacing, steps):
    scheduler = kind(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule(scheduler.alphas_cumprod)
    levels = Spacing(spacing, whole_timesteps=True).levels(schedule, steps)
    assert [level.t for level in levels[:-1]] == scheduler.timesteps.tolist()
    at = scheduler.alphas_cumprod[scheduler.timesteps].double().tolist()
    assert [level.alpha_bar for level in levels[:-1]] == at


@pytest.mark.parametrize("steps", [1, 3, 10, 25, 48, 50, 100, 333])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_end_at_the_least_noisy_level_is_dpm_solvers_sigma_min(spacing, steps):
    scheduler = DPMSolverMultistepScheduler(timestep_spacing=spacing, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule(scheduler.alphas_cumprod)
    levels = Spacing(spacing, whole_timesteps=True, final="least").levels(schedule, steps)
    assert [level.t for level in levels] == [*scheduler.timesteps.tolist(), 0]
    sigma = [level.sigma for level in levels]
    assert sigma == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 10, 25, 48, 50, 100, 333])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_dpm_solvers_own_grids_leave_out_the_last_point(spacing, steps):
    scheduler = DPMSolverMultistepScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule(scheduler.alphas_cumprod)
    levels = Spacing(f"dpm_{spacing}", whole_timesteps=True).levels(schedule, steps)
    assert [level.t for level in levels] == [*scheduler.timesteps.tolist(), -1]
    sigma = [level.sigma for level in levels]
    assert sigma == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)


@pytest.mark.parametrize("steps", [2, 10, 25, 50])
@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("name", ["karras", "exponential", "beta"])
def test_spacings_in_sigma_are_those_of_the_schedulers_in_sigma(name, kind, steps):
    scheduler = kind(**{f"use_{name}_sigmas": True})
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule(scheduler.alphas_cumprod)
    levels = Spacing(name).levels(schedule, steps)
    assert [level.sigma for level in levels] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-6)
    t = [level.t for level in levels[:-1]]
    if kind is EulerDiscreteScheduler:
        assert t == pytest.approx(scheduler.timesteps.tolist(), abs=2e-3)
    if kind is DPMSolverMultistepScheduler and name == "karras":
        whole = Spacing(name, whole_timesteps=True).levels(schedule, steps)
        assert [level.t for level in whole[:-1]] == scheduler.timesteps.tolist()
        assert [level.alpha_bar for level in whole] == [level.alpha_bar for level in levels]


@pytest.mark.parametrize("steps", [1, 4, 28, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_a_shifted_flow_grid_is_the_flow_schedulers(shift, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))  # as the pipelines do
    levels = Spacing(shift=shift).levels(FLOW, steps)
    assert [level.t for level in levels[:-1]] == pytest.approx(scheduler.timesteps.tolist())
    flow_sigma = [level.s / (level.a + level.s) for level in levels]
    assert flow_sigma == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


@pytest.mark.parametrize("steps", [2, 28, 50])
def test_flow_linspace_is_the_flow_schedulers_own(steps):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    levels = Spacing("linspace").levels(FLOW, steps)
    assert [level.t for level in levels[:-1]] == pytest.approx(scheduler.timesteps.tolist())


def test_a_shift_multiplies_every_sigma():
    plain, shifted = (Spacing(shift=shift).levels(FLOW, 9) for shift in (1.0, 3.0))
    for a, b in zip(plain[1:], shifted[1:], strict=True):
        assert b.sigma == pytest.approx(3 * a.sigma)


WRONG_SPACINGS = {
    "unknown name": (Spacing("sigmoid"), DDPM, 9, "`spacing` sigmoid"),
    "no steps": (Spacing(), DDPM, 0, "steps"),
    "sigma_max above the schedule": (Spacing("karras", sigma_max=200), DDPM, 9, "outside"),
    "sigma_min at sigma_max": (Spacing("beta", sigma_min=5, sigma_max=5), DDPM, 9, "`sigma_min`"),
    "sigma_min above": (Spacing("beta", sigma_min=1e9), DDPM, 9, "`sigma_min`"),
    "negative sigma": (Spacing("beta", sigma_min=-1), DDPM, 9, "`sigma_min`"),
    "NaN sigma": (Spacing("beta", sigma_max=np.nan), DDPM, 9, "`sigma_max`"),
    "rho 0": (Spacing("karras", rho=0), DDPM, 9, "`rho`"),
    "rho elsewhere": (Spacing("beta", rho=5), DDPM, 9, "`rho`"),
    "sigma in t": (Spacing("leading", sigma_max=5), DDPM, 9, "`sigma_max`"),
    "shift of no flow": (Spacing(shift=3), DDPM, 9, "`shift`"),
    "shift in sigma": (Spacing("karras", shift=3, sigma_max=9), FLOW, 9, "`shift`"),
    "shift 0": (Spacing(shift=0), FLOW, 9, "`shift`"),
    "pure noise": (Spacing("exponential"), FLOW, 9, "`sigma_max`"),
    "whole sigma": (Spacing(whole_timesteps=True), EDM, 9, "`whole_timesteps`"),
    "too many whole": (Spacing(whole_timesteps=True), DDPM, 1001, "1000"),
    "equal after rounding": (
        Spacing("linspace", whole_timesteps=True, final="least"), DDPM, 1000, "one place"
    ),
    "shifted together": (Spacing(whole_timesteps=True, shift=30), FLOW, 900, "`shift` 30"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_SPACINGS)
def test_a_spacing_that_does_not_fit_is_one_sentence(case):
    spacing, schedule, steps, named = WRONG_SPACINGS[case]
    with pytest.raises(InputError) as error:
        spacing.levels(schedule, steps)
    assert named in one_sentence(error)


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
    ("steps", "ranks", "slices"), [(16, 1, 4), (17, 1, 4), (1, 1, 1), (100, 8, 10)]
)
def test_blocks_default_to_the_root_of_the_steps(steps, ranks, slices):
    assert PIADM().default_slices(steps, ranks) == slices


# --- slices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slicing", SLICINGS)
@pytest.mark.parametrize("schedule", ["noise", "flow", "edm"])
@given(steps=st.integers(1, 100), data=st.data())
def test_every_slicing_gives_every_slice_a_step(slicing, schedule, steps, data):
    slices = data.draw(st.integers(1, steps))
    levels = Spacing().levels(ALL[schedule], steps)
    bounds = SLICINGS[slicing](levels, slices)
    assert TimeGrid(levels, bounds).slices == slices


def test_slices_by_logsnr_are_as_equal_as_the_steps_allow():
    levels = Spacing().levels(DDPM, 400)
    bounds = SLICINGS["logsnr"](levels, 5)
    lengths = [levels[b].lam - levels[a].lam for a, b in pairwise(bounds[:-1])]
    longest = max(b.lam - a.lam for a, b in pairwise(levels[:-1]))
    assert np.ptp(lengths) <= 2 * longest
    assert bounds != SLICINGS["even"](levels, 5)
    even = Spacing("logsnr").levels(DDPM, 40)
    assert SLICINGS["logsnr"](even, 5) == even_bounds(40, 5)


def test_slices_by_ornstein_uhlenbeck_time_are_equal_blocks_and_equal_ratios():
    levels = Spacing("karras", final="least").levels(DDPM, 1000)
    bounds = SLICINGS["ou"](levels, 6)
    time = ou_times([levels[b] for b in bounds])
    clock = np.where(time > 1, time, 1 + np.log(np.minimum(time, 1)))
    assert -np.diff(clock) == pytest.approx((clock[0] - clock[-1]) / 6, rel=0.05)
    even = Spacing("ou", final="least").levels(DDPM, 60)
    assert SLICINGS["ou"](even, 6) == even_bounds(60, 6)


def test_infinite_steps_at_both_ends_count_alike():
    levels = Spacing().levels(FLOW, 40)  # its signal-to-noise ratio is symmetric
    assert SLICINGS["logsnr"](levels, 4) == (0, 4, 20, 36, 40)
    assert SLICINGS["logsnr"](levels[1:], 1) == (0, 39)
    assert SLICINGS["logsnr"](Spacing().levels(FLOW, 2), 2) == (0, 1, 2)


def test_more_slices_than_steps_are_refused_by_logsnr_too():
    with pytest.raises(InputError, match="slices"):
        SLICINGS["logsnr"](Spacing().levels(DDPM, 3), 4)


# --- grid files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trailing", "karras"])
@pytest.mark.parametrize("schedule", ["noise", "edm"])
def test_a_grid_file_is_read_back_to_the_bit(schedule, name, tmp_path):
    levels = Spacing(name, final="least").levels(ALL[schedule], 17)
    for bounds in (None, (0, 5, 17)):
        write_grid(tmp_path / "g.yaml", levels, bounds, ["a comment", "over two: lines"])
        assert read_grid(tmp_path / "g.yaml", ALL[schedule]) == (levels, bounds)
    assert (tmp_path / "g.yaml").read_text().startswith("# a comment\n# over two: lines\n")


def grid_file(folder, text):
    (folder / "g.yaml").write_text(text)
    return folder / "g.yaml"


def test_a_grid_file_by_hand_gives_t_or_sigma_or_alpha_bar(tmp_path):
    levels, bounds = read_grid(grid_file(tmp_path, "t: [999, 500.5, 0, -1]"), DDPM)
    assert levels == tuple(level_of(DDPM, t) for t in (999, 500.5, 0, -1))
    assert bounds is None
    levels, _ = read_grid(grid_file(tmp_path, "sigma: [80, 1e-1, 0]"), DDPM)
    assert [level.sigma for level in levels] == pytest.approx([80, 0.1, 0])
    assert levels[-1] == (-1, 1)
    levels, _ = read_grid(grid_file(tmp_path, "alpha_bar: [0.1, 0.9]\nt: [475, 99]"), DDPM)
    assert levels == ((475, 0.1), (99, 0.9))
    levels, bounds = read_grid(grid_file(tmp_path, "sigma: [.inf, 1, 0]\nbounds: [0, 2]"), FLOW)
    assert (levels, bounds) == (((1000, 0), (500, 0.5), (0, 1)), (0, 2))


WRONG_FILES = {
    "empty": ("", "is empty"),
    "comment only": ("# nothing", "is empty"),
    "no mapping": ("- 3\n- 2", "lines like"),
    "no YAML": ("t: [3", "can't be read"),
    "YAML with code": ("t: !!python/object/apply:os.getcwd []", "can't be read"),
    "unknown key": ("times: [3, 2]", "'times'"),
    "no levels": ("bounds: [0, 1]", "one of t, sigma and alpha_bar"),
    "two kinds": ("sigma: [3, 2]\nalpha_bar: [0.1, 0.2]", "one of t, sigma and alpha_bar"),
    "a number": ("t: 3", "list"),
    "one level": ("t: [3]", "at least two"),
    "text": ("t: [3, many]", "'many'"),
    "boolean": ("t: [3, true]", "True"),
    "date": ("t: [2024-01-01, 3]", "no number"),
    "huge": ("t: [1" + "0" * 400 + ", 3]", "no number"),
    "nested": ("t: [[3, 2], [1, 0]]", "no number"),
    "none": ("t: [3, ]\nsigma:", "list"),
    "NaN": ("sigma: [3, .nan, 1]", "NaN"),
    "rises": ("t: [3, 5]", "monotone"),
    "stays": ("sigma: [3, 3, 1]", "monotone"),
    "alpha_bar falls": ("alpha_bar: [0.9, 0.1]", "monotone"),
    "t outside": ("t: [1000, 5]", "leaves the schedule"),
    "t below": ("t: [100, -2]", "leaves the schedule"),
    "sigma outside": ("sigma: [1000, 5]", "leaves the schedule"),
    "infinite sigma": ("sigma: [.inf, 5]", "leaves the schedule"),
    "negative sigma": ("sigma: [5, -1]", "below 0"),
    "alpha_bar outside": ("alpha_bar: [0.5, 1.5]", "leaves the schedule"),
    "sigma too fine": ("sigma: [1, 1e-9, 0]", "too close"),
    "t of other length": ("sigma: [3, 2]\nt: [3]", "at least two"),
    "more t than levels": ("sigma: [3, 2]\nt: [3, 2, 1]", "3 values of t for 2 levels"),
    "t that rises beside sigma": ("sigma: [3, 2]\nt: [3, 4]", "monotone"),
    "t outside beside sigma": ("sigma: [3, 2]\nt: [3000, 4]", "leaves the schedule"),
    "bounds are text": ("t: [3, 2]\nbounds: all", "bounds"),
    "bounds of text": ("t: [3, 2]\nbounds: [0, one]", "bounds"),
    "bounds do not fit": ("t: [3, 2, 1]\nbounds: [0, 1]", "bounds"),
    "bounds fall": ("t: [3, 2, 1]\nbounds: [0, 1, 1, 2]", "bounds"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_grid_file_is_one_sentence_naming_it(case, tmp_path):
    text, told = WRONG_FILES[case]
    with pytest.raises(InputError, match="g\\.yaml") as error:
        read_grid(grid_file(tmp_path, text), DDPM)
    assert told in one_sentence(error)


def test_a_grid_file_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.yaml", "binary.yaml", ""):
        with pytest.raises(InputError, match="can't be read") as error:
            read_grid(tmp_path / name, DDPM)
        one_sentence(error)
    with pytest.raises(InputError, match="can't be written"):
        write_grid(tmp_path / "no" / "g.yaml", Spacing().levels(DDPM, 3), None)


# --- the grid of a run ---------------------------------------------------------------------------


def test_settings_and_the_grid_command_know_every_spacing():
    kinds = [
        kind.model_fields[name].annotation
        for kind, name in ((Settings, "spacing"), (Sliced, "slicing"))
    ]
    assert set(kinds[0].__args__) == set(SPACINGS)
    assert set(kinds[1].__args__) == set(SLICINGS)
    fields = GridSettings.model_fields
    assert set(fields["spacing"].annotation.__args__) == {*SPACINGS, "gits"}
    assert set(fields["teacher_spacing"].annotation.__args__) == set(SPACINGS)
    assert set(fields["slicing"].annotation.__args__) == {*SLICINGS, "cost"}


def test_the_grid_of_a_run_is_what_its_settings_say():
    plain = grid_of(settings_of(steps=16, slices=4), DDPM, 1)
    assert plain == make_grid(DDPM, 16, 4)
    assert grid_of(settings_of(steps=16), DDPM, 8).slices == 8
    assert grid_of(settings_of(steps=16, bounds=(0, 3, 16)), DDPM, 2).bounds == (0, 3, 16)
    given = settings_of(
        steps=16, slices=3, slicing="logsnr", spacing="karras", rho=5, sigma_min=0.1, sigma_max=50
    )
    spacing = Spacing("karras", rho=5, sigma_min=0.1, sigma_max=50)
    assert grid_of(given, DDPM, 1) == make_grid(DDPM, 16, 3, None, spacing, "logsnr")
    flow = settings_of(steps=9, slices=3, shift=3, final="least", whole_timesteps=True)
    spacing = Spacing(shift=3, final="least", whole_timesteps=True)
    assert grid_of(flow, FLOW, 1) == make_grid(FLOW, 9, 3, None, spacing)


def test_blocks_of_a_method_in_rounds_are_the_same_on_any_ranks():
    for wanted in ({}, {"slices": 3}):
        settings = settings_of(method="piadm", steps=16, **wanted)
        assert grid_of(settings, DDPM, 8) == grid_of(settings, DDPM, 1)
    with pytest.raises(InputError, match="3 slices for 8 ranks"):
        grid_of(settings_of(steps=16, slices=3), DDPM, 8)


def test_a_grid_file_says_steps_and_slices_and_flags_the_slices_again(tmp_path):
    path = grid_file(tmp_path, "t: [999, 900, 800, 300, 100, -1]\nbounds: [0, 1, 2, 5]")
    assert grid_of(settings_of(grid=path), DDPM, 1).bounds == (0, 1, 2, 5)
    assert grid_of(settings_of(grid=path, steps=5), DDPM, 1).steps == 5
    assert grid_of(settings_of(grid=path, slices=5), DDPM, 1).bounds == (0, 1, 2, 3, 4, 5)
    assert grid_of(settings_of(grid=path, bounds=(0, 2, 5)), DDPM, 1).bounds == (0, 2, 5)
    levels = read_grid(path, DDPM)[0]
    cut = grid_of(settings_of(grid=path, slicing="logsnr"), DDPM, 1)
    assert cut.bounds == SLICINGS["logsnr"](levels, 3)
    path = grid_file(tmp_path, "t: [999, 900, 800, 300, 100, -1]")
    assert grid_of(settings_of(grid=path), DDPM, 1).slices == 4
    assert grid_of(settings_of(grid=path), DDPM, 4).slices == 4


def test_settings_with_a_grid_file_can_be_read_back(tmp_path):
    path = grid_file(tmp_path, "t: [999, 500, -1]")
    first = parse(Settings, ["--grid", str(path), "--slices", "2"])
    (tmp_path / "again.yaml").write_text(first.to_yaml())
    again = parse(Settings, ["--config", str(tmp_path / "again.yaml")])
    assert grid_of(again, DDPM, 1) == grid_of(first, DDPM, 1)
    assert "steps" in yaml.safe_load(settings_of().to_yaml())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--grid", "g.yaml", "--steps", "64"], "has 2 steps"),
        (["--grid", "g.yaml", "--spacing", "karras"], "--spacing"),
        (["--grid", "g.yaml", "--sigma-max", "3"], "--sigma-max"),
        (["--grid", "g.yaml", "--whole-timesteps"], "--whole-timesteps"),
        (["--grid", "g.yaml", "--slices", "3"], "--steps 2 is less"),
        (["--slicing", "logsnr", "--bounds", "0,5,64"], "--slicing"),
        (["--slices", "65"], "--steps 64"),
        (["--slices", "1"], "2 ranks"),
        (["--bounds", "0,64"], "2 ranks"),
        (["--spacing", "cosine"], "'karras'"),
        (["--final", "dirty"], "--final"),
    ],
    ids=" ".join,
)
def test_settings_of_a_grid_that_do_not_fit_are_one_sentence(flags, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid_file(tmp_path, "t: [999, 500, -1]")
    with pytest.raises(InputError) as error:
        grid_of(parse(Settings, flags), DDPM, 2)
    one_sentence(error)
    assert named in with_flags(str(error.value))


# --- GITS ----------------------------------------------------------------------------------------


def path_cost(cost, path, factor):
    total = 0.0
    for i, j in reversed(list(pairwise(path))):
        total = cost[i, j] + factor * total
    return total


@given(st.integers(2, 9), st.integers(0, 10**6), st.sampled_from([1.0, 1.15, 0.8]), st.data())
def test_the_best_path_is_the_best_of_all_paths(points, seed, factor, data):
    steps = data.draw(st.integers(1, points - 1))
    cost = np.random.default_rng(seed).random((points, points))
    inner = combinations(range(1, points - 1), steps - 1)
    best = min(path_cost(cost, (0, *middle, points - 1), factor) for middle in inner)
    path = best_path(cost, steps, factor)
    assert len(path) == steps + 1
    assert (path[0], path[-1]) == (0, points - 1)
    assert (np.diff(path) > 0).all()
    assert path_cost(cost, path, factor) == pytest.approx(best)


@pytest.mark.parametrize("steps", [0, 5])
def test_a_path_has_one_step_up_to_all(steps):
    with pytest.raises(InputError, match="steps"):
        best_path(np.ones((5, 5)), steps)


def two_blobs():
    return GaussianMixture(
        np.array([[-0.7, 0.2], [0.6, 0.5]]), np.array([0.02, 0.1]), np.array([0.4, 0.6]),
        device=torch.device("cpu"), dtype=torch.float64,
    )  # fmt: skip


def evaluator(levels):
    walk = TimeGrid(levels, (0, len(levels) - 1))
    return Evaluator(two_blobs(), walk, torch.device("cpu"), torch.float64, torch.float64)


def test_costs_are_what_one_ddim_step_instead_of_many_gets_wrong():
    levels = Spacing("karras").levels(DDPM, 8)
    noise = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, eps = walk_teacher(evaluator(levels), noise, levels)
    x = noise.numpy()
    states = [x / levels[0].a]
    for i, (here, there) in enumerate(pairwise(levels)):
        x = there.a * (x - here.s * eps[i]) / here.a + there.s * eps[i]
        states.append(x / there.a)
    cost = measured_costs(evaluator(levels), noise, levels)
    for i in range(9):
        for j in range(9):
            if j <= i:
                assert cost[i, j] == np.inf
                continue
            jumped = states[i] + (levels[j].sigma - levels[i].sigma) * eps[i]
            wrong = np.linalg.norm(jumped - states[j], axis=1).mean()
            assert cost[i, j] == pytest.approx(wrong, abs=1e-9)
    assert np.diagonal(cost, 1).max() == 0


def test_a_walk_from_pure_noise_has_finite_costs():
    sigma = np.array([np.inf, 3.0, 1.0, 0.0])
    seen = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    cost = jump_costs(*seen, sigma)
    assert np.isfinite(cost[np.triu_indices(4, 1)]).all()


def run_grid(folder, *flags, **options):
    return launch("grid", *flags, folder / "g.yaml", cwd=folder, **options)


def test_the_command_writes_a_grid_that_sample_takes(tmp_path, mixture_file):
    model = ["--model", f"gmm:{mixture_file}"]
    given = ["--steps", 12, "--teacher-steps", 30, "--slices", 3, "--slicing", "cost"]
    ended = run_grid(tmp_path, *model, *given)
    assert ended.code == 0, ended
    text = (tmp_path / "g.yaml").read_text()
    assert "# spacing: gits" in text
    levels, bounds = read_grid(tmp_path / "g.yaml", DDPM)
    assert len(levels) == 13
    assert len(bounds) == 4
    teacher = Spacing("karras").levels(DDPM, 30)
    assert set(levels) <= set(teacher)
    ended = launch("sample", *model, "--grid", tmp_path / "g.yaml", "--out", tmp_path / "run")
    assert ended.code == 0, ended
    with h5py.File(tmp_path / "run" / "run.h5") as run:
        assert run["grid/slices"][:].tolist() == list(bounds)
        assert run["grid/alpha_bar"][:].tolist() == [level.alpha_bar for level in levels]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--steps", 70], "--teacher-steps"),
        (["--slicing", "cost"], "--slices"),
        (["--steps", 4, "--slices", 5], "--slices 5"),
        (["--model", "no/where"], "no/where"),
        (["--spacing", "karras", "--sigma-max", 1e9], "--sigma-max"),
        (["--spacing", "cosine"], "'gits'"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_made_is_one_sentence(flags, named, tmp_path, mixture_file):
    ended = run_grid(tmp_path, "--model", f"gmm:{mixture_file}", *flags)
    assert ended.code == 2, ended
    assert ended.err.startswith("pint-diffusion: error: ")
    assert ended.err.strip().count("\n") == 0
    assert named in ended.err
    assert not (tmp_path / "g.yaml").exists()


def test_the_command_overwrites_no_file_unless_forced_and_wants_one_process(tmp_path, mixture_file):
    given = ["--model", f"gmm:{mixture_file}", "--spacing", "beta"]
    assert run_grid(tmp_path, *given).code == 0
    ended = run_grid(tmp_path, *given)
    assert ended.code == 2
    assert "--force" in ended.err
    assert run_grid(tmp_path, *given, "--force").code == 0
    ended = run_grid(tmp_path, *given, "--force", ranks=2)
    assert ended.code == 2
    assert "one process" in ended.err
    ended = launch("grid", *given, tmp_path / "no" / "g.yaml")
    assert ended.code == 2
    assert "folder" in ended.err
