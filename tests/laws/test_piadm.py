"""Laws of PIADM: its sums, its rounds, what it samples, and what its corrector repairs."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.flat import flags, settings_of
from helpers.grids import make_grid
from helpers.runs import run
from scipy.stats import wasserstein_distance

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.commands.cli import main
from pint_diffusion.errors import InputError
from pint_diffusion.grid import NoiseSchedule, level_of_sigma
from pint_diffusion.methods.rounds.piadm import Blocks
from pint_diffusion.models.mixture import GaussianMixture
from pint_diffusion.run import solve_sequentially
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.solvers.langevin import Langevin
from pint_diffusion.store.master import read_run

OU = {"spacing": "ou", "sigma_min": 0.1, "final": "least"}


@pytest.fixture
def exact(mixture_file):
    return {
        "model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 3,
        "method": "piadm", **OU,
    }  # fmt: skip


# --- the iteration -------------------------------------------------------------------------------


def printed_sum(mixture, y0, lagged, times, noises, stochastic):
    """Sum of the paper: new points 1 .. M of a block of the lagged points 0 .. M - 1."""
    tau = times[0] - times
    e = np.diff(tau)
    factor = 2 if stochastic else 1
    new = []
    for m in range(1, len(times)):
        y = np.exp(tau[m] / 2) * y0
        for j in range(m):
            score = -mixture.epsilon(lagged[j], np.exp(-times[j])) / np.sqrt(-np.expm1(-times[j]))
            drift = factor * np.expm1(e[j] / 2) * score
            noise = np.sqrt(np.expm1(e[j])) * noises[j] if stochastic else 0
            y = y + np.exp((tau[m] - tau[j + 1]) / 2) * (drift + noise)
        new.append(y)
    return new


@pytest.mark.parametrize("sweeps", [1, 2, 4])
@pytest.mark.parametrize("solver", ["ou_sde", "ou_ode"])
def test_a_number_of_sweeps_gives_the_papers_sums(exact, mixture_file, solver, sweeps):
    given = {"steps": 15, "slices": 3, "solver": solver, "freeze": "score", "sweeps": sweeps}
    done = run(LocalWorld(), **exact, **given)
    problem = done.plan.problem
    mixture = reference.Mixture(mixture_file)
    times = -np.log([level.alpha_bar for level in problem.grid.levels])
    y = problem.noise.flatten(1).numpy()
    for first, end in pairwise(problem.grid.bounds):
        noises = [reference.step_noise(0, 3, mixture.shape, i) for i in range(first, end)]
        points = [y] * (end - first + 1)
        for _ in range(sweeps):
            here = times[first : end + 1]
            points[1:] = printed_sum(mixture, y, points[:-1], here, noises, solver == "ou_sde")
        y = points[-1]
    assert np.abs(done.answer.flatten(1).numpy() - y).max() < 1e-9
    assert done.outcome.iterations == 3 * sweeps


@pytest.mark.parametrize(("sweeps", "rounds"), [(1, 6), (3, 8), (4, 9), (9, 9)])
def test_the_diagonal_ends_a_slice_in_every_round_after_the_first_slice(exact, sweeps, rounds):
    given = {"steps": 24, "slices": 6, "schedule": "diagonal", "sweeps": sweeps}
    done = run(LocalWorld(), **exact, **given, solver="ou_sde")
    assert done.outcome.iterations == rounds
    ended = min(sweeps, 4)
    assert np.array_equal(done.outcome.changes[ended - 1 :, 0], np.arange(4, 25, 4))


@pytest.mark.parametrize(("settled", "slid"), [(1, 1), (2, 2), (3, 2), (5, 2), (6, 6), (8, 8)])
def test_slices_end_where_no_point_before_their_end_has_moved(settled, slid):
    """Of slices that end at points 3, 7 and 9, seen from point 1."""
    grid = make_grid(NoiseSchedule.ddpm_linear(), 9, 3, (0, 3, 7, 9))
    problem = SimpleNamespace(
        grid=grid, tolerance=0.1, half_range=1.0, fine=SimpleNamespace(solver=None)
    )
    sweep = Blocks(problem, schedule="diagonal", freeze="v", sweeps=None)
    assert sweep.slide(1, settled) == slid


@pytest.mark.parametrize("schedule", ["blocks", "diagonal"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_the_error_follows_the_tolerance(exact, schedule, tolerance):
    given = exact | {"steps": 48, "slices": 6, "solver": "ou_sde"}
    done = run(LocalWorld(), **given, schedule=schedule, tolerance=tolerance)
    walk = run(LocalWorld(), **(given | {"method": "sequential"}))
    assert 0 < float((done.answer - walk.answer).abs().max()) < 5 * tolerance


@pytest.mark.parametrize("solver", ["ou_sde", "ou_ode"])
def test_rounds_hardly_depend_on_the_step(exact, solver):
    def rounds(steps):
        given = exact | {"samples": 16, "slices": 6}
        return run(LocalWorld(), **given, steps=steps, solver=solver).outcome.iterations

    few, many = rounds(60), rounds(120)
    assert many < 1.25 * few  # and 60 more in the sequential walk


def test_the_diagonal_takes_fewer_rounds_than_slices_one_after_the_other(exact):
    given = exact | {"steps": 60, "slices": 6, "solver": "ou_sde"}
    blocks, diagonal = (
        run(LocalWorld(), **given, schedule=schedule) for schedule in ("blocks", "diagonal")
    )
    assert diagonal.outcome.iterations < 0.8 * blocks.outcome.iterations


def test_a_sweep_evaluates_only_points_that_are_not_exact(exact):
    done = run(LocalWorld(), **exact, steps=12, slices=3, sweeps=3, solver="ou_ode")
    assert done.evaluations == 3 * (4 + 3 + 2)


# --- what is sampled -----------------------------------------------------------------------------


MEANS = np.array([[-1.2, 0.4], [1.0, 0.9], [0.3, -1.3]])
VARIANCES = np.array([0.04, 0.09, 0.06])
WEIGHTS = np.array([0.3, 0.3, 0.4])
COUNT = 2000


def blobs():
    return GaussianMixture(
        MEANS, VARIANCES, WEIGHTS, device=torch.device("cpu"), dtype=torch.float64
    )


def drawn(seed, level):
    """Exact samples at a level, (COUNT, 2)."""
    draw = np.random.default_rng(seed)
    at = draw.choice(3, COUNT, p=WEIGHTS)
    clean = MEANS[at] + np.sqrt(VARIANCES[at])[:, None] * draw.normal(size=(COUNT, 2))
    return level.a * clean + level.s * draw.normal(size=clean.shape)


def distance(one, other):
    """Sliced Wasserstein distance of two sets of samples, over 32 directions."""
    turn = np.pi * np.arange(32) / 32
    return np.mean(
        [
            wasserstein_distance(one @ way, other @ way)
            for way in np.stack([np.cos(turn), np.sin(turn)], axis=1)
        ]
    )


def sampled(**given):
    """Answer of the sequential walk, to which PIADM's differs by its tolerance; its last level."""
    settings = {"dtype": "float64", "samples": COUNT, "method": "sequential", **OU, **given}
    plan = plan_of(settings_of(**settings), LocalWorld(), blobs())
    answer = solve_sequentially(plan).samples
    return answer.numpy(), plan.problem.grid.levels[-1]


def test_what_is_sampled_is_the_mixture():
    """Bounds: twice what two sets of exact samples are apart, and five standard errors."""
    answer, level = sampled(solver="ou_sde", steps=60)
    exact, again = drawn(1, level), drawn(2, level)
    assert distance(answer, exact) < 2 * distance(again, exact)
    error = exact.std(axis=0) * np.sqrt(2 / COUNT)
    assert (np.abs(answer.mean(axis=0) - exact.mean(axis=0)) < 5 * error).all()
    assert np.abs(np.cov(answer.T) - np.cov(exact.T)).max() < 0.05


def test_the_corrector_repairs_what_few_steps_of_the_ode_get_wrong():
    given = {"solver": "ou_ode", "steps": 12, "slices": 6}
    plain, level = sampled(**given)
    repaired, _ = sampled(**given, corrector_steps=20, corrector_length=0.2)
    exact, again = drawn(1, level), drawn(2, level)
    apart = distance(again, exact)
    assert distance(plain, exact) > 2 * apart
    assert distance(repaired, exact) < 0.6 * distance(plain, exact)


@pytest.mark.parametrize("wrong", [lambda x: 1.3 * x, lambda x: x + 0.2], ids=["wide", "shifted"])
def test_langevin_steps_lead_back_to_the_law_of_the_level(wrong):
    network, level = blobs(), level_of_sigma(NoiseSchedule.ddpm_linear(), 1.0)
    exact, again = drawn(1, level), drawn(2, level)
    draw = torch.manual_seed(0)
    u, v = (
        torch.from_numpy(wrong(again)),
        torch.randn(COUNT, 2, dtype=torch.float64, generator=draw),
    )
    alpha_bar = torch.full((COUNT,), level.alpha_bar, dtype=torch.float64)
    step = Langevin(0.1 * level.s, 2 / level.s)
    for _ in range(60):
        noises = torch.randn(2, COUNT, 2, dtype=torch.float64, generator=draw)
        eps = network(u, alpha_bar, alpha_bar)
        u, v = step(u, v, -eps / level.s, (noises[0], noises[1]))
    assert distance(u.numpy(), exact) < 0.4 * distance(wrong(again), exact)


# --- the corrector in the iteration --------------------------------------------------------------


CORRECTED = {"steps": 9, "slices": 3, "corrector_steps": 4, "solver": "ou_ode"}


@pytest.mark.parametrize("schedule", ["blocks", "diagonal"])
@pytest.mark.parametrize("solver", ["ou_ode", "heun"])
def test_the_corrected_walk_is_found_to_the_bit(world, exact, solver, schedule):
    given = exact | CORRECTED | {"solver": solver}
    done = run(world, **given, schedule=schedule, tolerance=0)
    walk = run(LocalWorld(), **(given | {"method": "sequential"}))
    assert torch.equal(done.answer, walk.answer)
    assert done.plan.problem.grid.bounds == (0, 3, 7, 10, 14, 17)


def test_langevin_steps_of_a_slice_boundary_are_made_together(exact):
    given = exact | {"steps": 18, "slices": 3, "solver": "ou_ode"}
    plain = run(LocalWorld(), **given).outcome.iterations
    done = run(LocalWorld(), **given, corrector_steps=16).outcome
    assert done.iterations < plain + 16  # 32 steps more in the sequential walk


def test_every_slice_boundary_draws_velocities_and_noises_of_its_own(exact):
    done = run(LocalWorld(), **exact, **CORRECTED, tolerance=0)
    walk = done.plan.problem.fine
    seen = []
    for i in range(walk.grid.steps):
        if walk.grid.levels[i] == walk.grid.levels[i + 1]:
            seen += [walk.noise(i), walk.noise(walk.grid.steps + i)]
        elif walk.grid.levels[i + 1 : i + 2] == walk.grid.levels[i + 2 : i + 3]:
            seen.append(walk.noise(i))
    assert len(seen) == 2 * (4 * 2 + 1)
    rows = torch.stack(seen).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(seen)


def test_a_corrected_run_that_was_stopped_is_gone_on_with_to_the_same_bits(exact, tmp_path):
    given = flags(exact | CORRECTED)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["sample", *given, "--verify", "--out", str(whole)]) == 0
    assert main(["sample", *given, "--out", str(parts), "--max-iterations", "5"]) == 3
    assert main(["resume", str(parts), "--max-iterations", "100"]) == 0
    assert np.array_equal(read_run(parts).samples, read_run(whole).samples)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"sweeps": 2, "tolerance": 0}, "`sweeps` 2"),
        ({"freeze": "increments", "solver": "dpmpp_2m"}, "dpmpp_2m"),
        ({"method": "parareal", "corrector_steps": 3}, "take the method piadm"),
        ({"method": "paradigms", "corrector_steps": 3}, "one slice only"),
        ({"method": "chords", "corrector_steps": 3}, "one slice only"),
        ({"corrector_steps": 3, "solver": "ou_sde"}, "draws noise"),
        ({"corrector_steps": 3, "solver": "unipc"}, "carries a history"),
        ({"corrector_steps": -1}, "`corrector_steps`"),
        ({"corrector_length": 0}, "`corrector_length`"),
        ({"schedule": "wave"}, "`schedule`"),
        ({"freeze": "noise"}, "`freeze`"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_one_sentence(exact, given, named):
    with pytest.raises(InputError) as error:
        plan_of(settings_of(**exact | {"steps": 8} | given), LocalWorld())
    assert named in str(error.value)
    assert "\n" not in str(error.value)
