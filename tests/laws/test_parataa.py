"""What is particular to ParaTAA: its plain form, its algebra, its safeguard, its two tolerances."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers.flat import settings_of
from helpers.networks import stiff
from helpers.runs import run
from helpers.walks import coefficients

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.build.guess import trajectory
from pint_diffusion.commands.sample import run_job
from pint_diffusion.errors import InputError
from pint_diffusion.grid import Level
from pint_diffusion.grid.level import noise_into
from pint_diffusion.methods.rounds.parataa import anderson
from pint_diffusion.numerics.prediction import Prediction, predict
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.solvers import SOLVERS
from pint_diffusion.solvers.response import Responses
from pint_diffusion.store.master import read_run

ONE_STEP = [name for name, solver in SOLVERS.items() if not solver.history]


@pytest.fixture
def given(mixture_file):
    return {
        "model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 3,
        "steps": 12, "slices": 4, "method": "parataa",
    }  # fmt: skip


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "heun"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_order_1_and_memory_1_is_the_plain_fixed_point_to_the_bit(given, solver, dtype):
    """Every point becomes the step from the point before, whatever has finished."""
    given |= {"solver": solver, "dtype": dtype, "samples": 1, "tolerance": 0}
    done = run(LocalWorld(), **given, order=1, memory=1)
    walk = done.plan.problem.fine
    network = done.plan.evaluators[0].denoiser

    def step(x, i):
        def known(x, level):
            alpha_bar = torch.full((len(x),), level.alpha_bar, dtype=torch.float64)
            t = torch.full((len(x),), max(level.t, 0), dtype=x.dtype)
            return predict(
                network.prediction, x, network(x, t, alpha_bar), *coefficients(x, alpha_bar)
            )

        return walk.replay(known, x, (), i)[0]

    points = [done.plan.problem.noise] * 13
    for k, reached in enumerate(done.outcome.changes[:, 0].astype(int), start=1):
        points = [points[0], *(step(x, i) for i, x in enumerate(points[:-1]))]
        for j in range(max(12 - reached, 1)):
            assert torch.equal(done.boundary[k, j], points[reached + j]), (k, j)


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_step_of_every_one_step_solver_is_affine_while_eps_stays(given, name):
    """Its growth A says what becomes of a move, in every step but from pure noise."""
    walk = plan_of(settings_of(**given, solver=name), LocalWorld()).problem.fine
    growth = Responses.of(walk).with_slope(lambda level: 0.0)[:, -1, 0]
    rng = torch.Generator().manual_seed(1)
    x, dx, eps, variance = (
        torch.randn(3, 1, 3, 2, generator=rng, dtype=torch.float64) for _ in range(4)
    )

    def known(x, level):
        return Prediction((x - level.s * eps) / level.a, eps, variance)

    for i in range(12):
        moved = walk.replay(known, x + dx, (), i)[0] - walk.replay(known, x, (), i)[0]
        torch.testing.assert_close(moved, growth[i] * dx, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("memory", [2, 3])
def test_the_update_is_the_regularized_least_squares_one_of_all_points_so_far(memory):
    rng = torch.Generator().manual_seed(2)
    ridge = 0.1
    rows = torch.randn(4, 2 * memory, 2, 5, generator=rng, dtype=torch.float64)
    changes = anderson(rows.transpose(0, 1), ridge)
    for at, made in enumerate(changes):
        for s in range(2):
            far = rows[: at + 1, 1::2, s]
            dr = (far[:, :-1] - far[:, 1:]).transpose(0, 1).flatten(1).numpy()
            dx = (rows[at, 0:-2:2, s] - rows[at, 2::2, s]).numpy()
            system = np.concatenate([dr.T, np.sqrt(ridge) * np.eye(memory - 1)])
            wanted = np.concatenate([far[:, 0].flatten().numpy(), np.zeros(memory - 1)])
            gamma = np.linalg.lstsq(system, wanted, rcond=None)[0]
            here = (rows[at, 1:-2:2, s] - rows[at, 3::2, s]).numpy()
            np.testing.assert_allclose(made[s], gamma @ (dx + here), rtol=1e-9, atol=1e-12)


def test_points_of_which_nothing_is_known_and_numbers_beyond_the_ridge_take_the_plain_update():
    x, far = torch.ones(1, 1, 4, dtype=torch.float64), torch.full((1, 1, 4), 2.0).double()
    nothing = torch.full_like(x, torch.nan)
    unknown = torch.stack([x, far, *[nothing] * 4])
    assert torch.equal(anderson(unknown, 1e-3), torch.zeros_like(x))
    line = torch.stack([x, 1e12 * far, x, 0 * far, x, -1e12 * far])
    assert torch.equal(anderson(line, 1e-9), torch.zeros_like(x))


@pytest.mark.parametrize("memory", [2, 4])
def test_the_safeguard_makes_a_point_exact_in_every_round_where_the_update_goes_astray(
    given, memory
):
    """With hardly any ridge, on a stiff mixture: point k is the sequential one after k rounds."""
    given |= {"steps": 24, "tolerance": 0, "memory": memory, "ridge": 1e-12}
    done = run(LocalWorld(), stiff(), **given)
    walk = run(LocalWorld(), stiff(), **(given | {
        "method": "sequential", "slices": 24, "memory": None, "ridge": None,
    }))  # fmt: skip
    assert torch.equal(done.answer, walk.answer)
    assert done.outcome.iterations <= 24
    for k, reached in enumerate(done.outcome.changes.astype(int), start=1):
        for s, i in enumerate(reached):
            assert torch.equal(done.boundary[k, 0, s], walk.boundary[0, i, s])


def test_more_memory_and_a_higher_order_take_fewer_rounds(given):
    given |= {"steps": 60, "tolerance": 1e-5}
    plain = run(LocalWorld(), **given, order=1, memory=1).outcome.iterations
    high = run(LocalWorld(), **given, memory=1).outcome.iterations
    both = run(LocalWorld(), **given).outcome.iterations
    assert both < high < plain


def test_samples_and_their_neighbours_do_not_touch(given):
    given |= {"steps": 30, "samples": 5, "memory": 3}
    done, few = run(LocalWorld(), **given), run(LocalWorld(), **(given | {"samples": 2}))
    assert np.array_equal(few.outcome.stopped_at, done.outcome.stopped_at[:2])
    assert torch.equal(few.answer, done.answer[:2])


def test_points_finish_by_the_greater_of_the_two_tolerances(given):
    """sigma is the noise that DDPM adds on the way to the point."""
    given |= {"steps": 30, "order": 1, "memory": 1, "tolerance": 1e-6}
    strict = run(LocalWorld(), **given, noise_tolerance=0)
    assert np.array_equal(strict.outcome.changes, run(LocalWorld(), **given).outcome.changes)
    loose = run(LocalWorld(), **given, noise_tolerance=0.5)
    assert loose.outcome.iterations < strict.outcome.iterations
    levels = loose.plan.problem.grid.levels
    first = loose.boundary[0, 0]  # copies of the noise
    walk, done = run(LocalWorld(), **(given | {
        "method": "sequential", "slices": 30, "order": None, "memory": None,
    })), loose.outcome.changes[0]  # fmt: skip
    for s in range(3):
        size = (walk.boundary[0, 1, s] - first[s]).square().mean().sqrt()
        finished = size <= max(1e-6, 0.5 * noise_into(levels[0], levels[1]))
        assert (done[s] > 1) == finished


def test_noise_into_a_point_is_that_of_ddim_with_eta_1():
    assert noise_into(Level(1, 0.25), Level(0, 0.5)) == pytest.approx(
        np.sqrt(0.5 / 0.75) * np.sqrt(0.5)
    )
    assert noise_into(Level(1, 0.0), Level(0, 0.5)) == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("tolerance", [0, 1e-3])
def test_a_run_that_begins_on_its_own_solution_takes_one_round(given, tmp_path, tolerance):
    sample(given | {"method": "sequential", "slices": 12, "out": tmp_path / "walk"})
    done = run(LocalWorld(), **given, tolerance=tolerance, warm_start=tmp_path / "walk")
    assert done.outcome.iterations == 1
    assert np.array_equal(done.answer, read_run(tmp_path / "walk").samples)


def test_a_run_that_begins_near_its_solution_takes_fewer_rounds_to_the_same_answer(given, tmp_path):
    """From Parareal's slices and on another grid, where points between are filled in."""
    given |= {"steps": 40, "tolerance": 1e-6}
    near = {"method": "parareal", "steps": 30, "slices": 10, "tolerance": 0.1}
    sample(given | near | {"out": tmp_path / "near"})
    cold, warm = (
        run(LocalWorld(), **given),
        run(LocalWorld(), **given, warm_start=tmp_path / "near"),
    )
    assert warm.outcome.iterations < cold.outcome.iterations
    torch.testing.assert_close(warm.answer, cold.answer, rtol=0, atol=1e-4)


def test_states_filled_in_lie_where_ddim_moves(given, tmp_path):
    """Between two states of a network that always says the same they are DDIM's own."""
    sample(given | {"method": "sequential", "slices": 1, "steps": 1, "out": tmp_path / "step"})
    problem = plan_of(settings_of(**given), LocalWorld()).problem
    filled = trajectory(problem, tmp_path / "step")
    x0 = torch.from_numpy(read_run(tmp_path / "step").samples)
    first = problem.grid.levels[0]
    eps = (problem.noise - first.a * x0) / first.s
    for level, x in zip(problem.grid.levels, filled, strict=True):
        torch.testing.assert_close(x, level.a * x0 + level.s * eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("other", "wrong", "said"),
    [
        ({"keep": "final"}, {}, "has kept no boundary states"),
        ({"method": "chords", "cores": 2}, {}, "has kept no boundary states"),
        ({"samples": 2}, {}, "samples of shape (2, "),
        ({}, {"window": 5}, "`window` is 5"),
        ({}, {"warm_start": "nowhere"}, "nowhere holds no run"),
    ],
)
def test_a_run_that_can_not_be_begun_on_is_refused_in_a_sentence(
    given, tmp_path, other, wrong, said
):
    sample(given | {"method": "sequential", "out": tmp_path / "walk"} | other)
    with pytest.raises(InputError, match=re.escape(said)):
        plan_of(settings_of(**given | {"warm_start": tmp_path / "walk"} | wrong), LocalWorld())


@pytest.mark.parametrize("name", ["", "run.h5"])
def test_the_run_that_it_begins_on_is_not_overwritten(given, tmp_path, name):
    walk = {"method": "sequential", "out": tmp_path / "walk"}
    sample(given | walk)
    with pytest.raises(InputError, match="give another folder"):
        sample(given | {"warm_start": walk["out"] / name, "out": walk["out"], "force": True})
    assert read_run(walk["out"]).facts["status"] == "finished"


def sample(settings):
    run_job(settings_of(**settings), LocalWorld())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"solver": "dpmpp_2m"}, "dpmpp_2m carries a history"),
        ({"tolerance": 0, "noise_tolerance": 0.1}, "`noise_tolerance` 0.1"),
    ],
)
def test_what_it_can_not_solve_is_refused_in_a_sentence(given, wrong, said):
    with pytest.raises(InputError, match=re.escape(said)):
        plan_of(settings_of(**given | wrong), LocalWorld())
