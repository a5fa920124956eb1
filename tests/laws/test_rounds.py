"""The laws of the methods in rounds, for every solver, on every transport and rank count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.flat import flags
from helpers.grids import make_grid
from helpers.networks import stiff
from helpers.runs import run, run_alone, run_plan

from pint_diffusion.commands.cli import main
from pint_diffusion.grid import NoiseSchedule, write_grid
from pint_diffusion.methods import METHODS
from pint_diffusion.methods.problem import Restart
from pint_diffusion.report.inspection import inspect_run
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.solvers import SOLVERS
from pint_diffusion.store.master import read_run

VARIANTS = {
    "paradigms, 1": {"method": "paradigms", "window": 1},
    "paradigms, 5": {"method": "paradigms", "window": 5},
    "paradigms, all": {"method": "paradigms"},
    "window, 5": {"method": "window", "window": 5},
    "window, all": {"method": "window"},
    "parataa, 1": {"method": "parataa", "window": 1},
    "parataa, 5, order 3": {"method": "parataa", "window": 5, "order": 3},
    "parataa, all, memory 3": {"method": "parataa", "memory": 3},
    "piadm": {"method": "piadm", "slices": 3},
    "piadm, diagonal": {"method": "piadm", "schedule": "diagonal", "freeze": "eps"},
}
ONE_STEP_ONLY = {"paradigms", "parataa"}


@pytest.fixture
def exact(mixture_file):
    """Settings under which equalities hold to the bit."""
    return {
        "model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 3,
        "steps": 12, "slices": 4,
    }  # fmt: skip


def test_every_method_in_rounds_has_a_variant():
    assert {given["method"] for given in VARIANTS.values()} == {
        name for name, method in METHODS.items() if method.counts == "points"
    }


def sequential(given):
    """Return the settings of the walk that a method's answer is compared with."""
    own = METHODS[given["method"]].stated()
    return {k: v for k, v in given.items() if k not in own or k == "slices"} | {
        "method": "sequential"
    }


def cases(solvers):
    return [
        pytest.param(given | {"solver": solver}, id=f"{name}, {solver}")
        for name, given in VARIANTS.items()
        for solver in solvers
        if not (SOLVERS[solver].history and given["method"] in ONE_STEP_ONLY)
    ]


@pytest.mark.parametrize("given", cases(SOLVERS))
def test_the_fixed_point_is_the_sequential_trajectory_to_the_bit(exact, given):
    given = exact | given
    done = run(LocalWorld(), **given, tolerance=0)
    walk = run(LocalWorld(), **sequential(given))
    assert torch.equal(done.answer, walk.answer)
    assert done.outcome.exact
    check_progress(done.outcome, 12)


@pytest.mark.parametrize(
    "method", [{"method": "window"}, {"method": "piadm", "schedule": "diagonal"}], ids=str
)
def test_sweeps_forget_the_history_where_the_walk_does(exact, tmp_path, method):
    grid = make_grid(NoiseSchedule.ddpm_linear(), 16, 4)
    write_grid(tmp_path / "grid.yaml", grid.levels, grid.bounds, [])
    own = {"solver": "dpmpp_2m", "carry": False, "grid": tmp_path / "grid.yaml"}
    given = {k: v for k, v in exact.items() if k not in ("steps", "slices")} | method | own
    done, walk = run(LocalWorld(), **given, tolerance=1e-6), run(LocalWorld(), **sequential(given))
    assert float((done.answer - walk.answer).abs().max()) < 1e-5


@pytest.mark.parametrize("given", cases(["ddim", "ddpm", "heun", "dpmpp_2m"]))
def test_bits_are_the_same_on_any_ranks(world, exact, given):
    given = exact | given
    done, alone = run(world, **given), run_alone(world, **given)
    assert np.array_equal(done.outcome.changes, alone.outcome.changes)
    equal_states(done.boundary, alone.boundary)
    assert done.result.evaluations_deep == alone.result.evaluations_deep


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_its_own_tolerance_a_method_is_near_the_sequential_answer(exact, variant):
    given = exact | VARIANTS[variant]
    done, walk = run(LocalWorld(), **given), run(LocalWorld(), **sequential(given))
    assert (done.answer - walk.answer).abs().max() < 0.05
    check_progress(done.outcome, 12)


@pytest.mark.parametrize("tolerance", [0, 1e-3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stiff_mixture_ends_within_as_many_rounds_as_steps(exact, variant, tolerance):
    given = exact | VARIANTS[variant] | {"steps": 24, "tolerance": tolerance}
    done = run(LocalWorld(), stiff(), **given)
    check_progress(done.outcome, 24)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_round_is_all_that_is_needed_to_go_on(world, exact, variant):
    """Each round's checkpoint, alone, leads to the bits of the undisturbed run."""
    given = exact | VARIANTS[variant] | {"solver": "heun", "tolerance": 1e-6}
    done = run(world, **given)
    for k in {0, 1, done.outcome.iterations // 2, done.outcome.iterations}:
        restart = Restart(k, lambda n, k=k: done.states[n, k], list(done.outcome.changes[:k]))
        again = run_plan(done.plan, world, restart)
        assert np.array_equal(again.outcome.changes, done.outcome.changes)
        for at, x in again.states.items():
            equal_states(x, done.states[at])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_in_rounds_that_was_stopped_is_gone_on_with_to_the_same_bits(
    exact, variant, tmp_path
):
    given = exact | VARIANTS[variant]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["sample", *flags(given), "--out", str(whole)]) == 0
    assert main(["sample", *flags(given), "--out", str(parts), "--max-iterations", "3"]) == 3
    assert main(["resume", str(parts), "--max-iterations", "12"]) == 0
    expected, found = read_run(whole), read_run(parts)
    assert found.facts["resumed_after"] == 3
    assert np.array_equal(found.samples, expected.samples)
    assert np.array_equal(found.change, expected.change)
    assert np.array_equal(found.stopped_at, expected.stopped_at)
    assert inspect_run(parts).whole


def test_a_window_of_one_is_ddim(world, exact):
    given = exact | {"dtype": "float32"}
    done = run(world, **given, method="paradigms", window=1)
    walk = run(LocalWorld(), **given, method="sequential")
    assert torch.equal(done.answer, walk.answer)
    assert done.outcome.iterations == 12


@pytest.mark.parametrize("scale", [1, 0.01])
@pytest.mark.parametrize(
    "given",
    [{"method": "window", "window": 8}, {"method": "piadm"}],
    ids=lambda given: given["method"],
)
def test_the_error_is_a_share_of_the_data_range(tmp_path, given, scale):
    draw = np.random.default_rng(3)
    means, variances = draw.uniform(-1, 1, (5, 12)), draw.uniform(0.01, 0.1, 5)
    arrays = {"means": scale * means, "variances": scale**2 * variances}
    file = tmp_path / "mixture.npz"
    np.savez(file, **arrays, weights=np.full(5, 0.2), data_range=[-scale, scale])
    given = given | {"model": f"gmm:{file}", "steps": 100, "samples": 4, "tolerance": 1e-3}
    done, walk = run(LocalWorld(), **given), run(LocalWorld(), **sequential(given))
    assert 0 < (done.answer - walk.answer).square().mean().sqrt() <= 2e-3 * scale


def test_a_slow_sample_does_not_hold_the_batch(world, exact):
    """What a sample does is the same beside others, and they end in rounds of their own."""
    given = exact | {"method": "paradigms", "steps": 40, "samples": 8, "tolerance": 0.02}
    done = run(world, **given)
    assert len(set(done.outcome.stopped_at)) > 1
    few = run(world, **(given | {"samples": 3}))
    assert np.array_equal(few.outcome.stopped_at, done.outcome.stopped_at[:3])
    assert torch.equal(few.answer, done.answer[:3])


def check_progress(outcome, steps):
    """At least one step more in every round, and all of them in the end."""
    reached = np.concatenate([np.zeros((1, outcome.changes.shape[1])), outcome.changes])
    left = reached[:-1] < steps
    assert (np.diff(reached, axis=0)[left] >= 1).all()
    assert (reached[-1] == steps).all()
    assert outcome.converged


def equal_states(a, b):
    """Compare to the bit; not a number is nothing, and equal to nothing."""
    assert torch.equal(torch.isnan(a), torch.isnan(b))
    assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
