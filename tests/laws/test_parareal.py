"""The laws of Parareal, on every transport, placement and rank count."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.networks import Contraction
from helpers.runs import run, run_alone
from helpers.walks import coefficients

from pint_diffusion.grid import NoiseSchedule, Spacing
from pint_diffusion.numerics.prediction import predict
from pint_diffusion.runtime.world import LocalWorld

PLACEMENTS = ["root", "slice"]


@pytest.fixture
def exact(mixture_file):
    """Settings under which equalities hold to the bit."""
    return {"model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 3}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    ("steps", "slices", "bounds", "coarse_steps", "iterations"),
    [
        (64, 8, None, 1, 5),
        (40, 8, None, 3, 3),
        (45, 9, (0, 1, 2, 4, 8, 15, 22, 30, 44, 45), 2, 4),
        (1500, 10, None, 1, 3),
        (32, 16, None, 1, 4),
    ],
)
def test_every_boundary_state_equals_an_independent_parareal(
    world, exact, mixture_file, placement, steps, slices, bounds, coarse_steps, iterations
):
    done = run(
        world, **exact, placement=placement, steps=steps, slices=slices, bounds=bounds,
        coarse_steps=coarse_steps, max_iterations=iterations, tolerance=1e-300,
    )  # fmt: skip
    noise = done.boundary[0, 0].flatten(1).numpy()
    cut = bounds or [n * steps // slices for n in range(slices + 1)]
    expected = reference.parareal(
        reference.Mixture(mixture_file), noise, reference.alpha_bars(steps), cut, iterations,
        coarse_steps,
    )  # fmt: skip
    found = done.boundary.flatten(3).numpy()
    assert found.shape == expected.shape
    error = np.abs(found - expected).max(axis=(2, 3)) / np.abs(expected).max(axis=(2, 3))
    assert error.max() < 1e-12


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("coarse_steps", [1, 2])
@pytest.mark.parametrize(("steps", "slices"), [(64, 8), (67, 9), (24, 8)])
def test_after_m_iterations_the_answer_is_the_sequential_one_to_the_bit(
    world, exact, placement, coarse_steps, steps, slices
):
    given = {**exact, "steps": steps, "slices": slices}
    done = run(
        world, **given, placement=placement, coarse_steps=coarse_steps, tolerance=1e-300,
        max_iterations=slices,
    )  # fmt: skip
    walk = run_alone(world, **given, method="sequential")
    assert done.outcome.iterations == slices
    assert done.outcome.exact
    assert done.outcome.converged
    assert torch.equal(done.boundary[-1], walk.boundary[0])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_after_k_iterations_the_first_k_boundary_states_are_exact_to_the_bit(
    world, exact, placement
):
    given = {**exact, "steps": 40, "slices": 8}
    done = run(world, **given, placement=placement, tolerance=1e-300, max_iterations=5)
    walk = run_alone(world, **given, method="sequential")
    for k in range(6):
        assert torch.equal(done.boundary[k, : k + 1], walk.boundary[0, : k + 1])
        assert not torch.equal(done.boundary[k, k + 1], walk.boundary[0, k + 1])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("slices", [8, 11])
def test_bits_history_and_stopping_iteration_do_not_depend_on_ranks_transport_or_placement(
    world, exact, placement, slices
):
    given = {**exact, "steps": 88, "slices": slices, "tolerance": 0.05}
    done = run(world, **given, placement=placement)
    alone = run_alone(world, **given, placement="root")
    assert done.outcome.iterations == alone.outcome.iterations < slices
    assert np.array_equal(done.outcome.stopped_at, alone.outcome.stopped_at)
    assert np.array_equal(done.outcome.changes, alone.outcome.changes)
    assert torch.equal(done.boundary, alone.boundary)
    assert done.result.evaluations_deep == alone.result.evaluations_deep


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("slices", "length", "iterations"), [(4, 4, 2), (8, 8, 3), (5, 5, 3)])
@pytest.mark.parametrize("batching", ["auto", "off", 2])
def test_evaluations_in_all_and_deep_are_those_of_the_formulas(
    world, exact, placement, slices, length, iterations, batching
):
    slices = slices if slices >= world.size else 2 * slices
    done = run(
        world, **(exact | {"batching": batching}), placement=placement, steps=slices * length,
        slices=slices, max_iterations=iterations, tolerance=1e-300,
    )  # fmt: skip
    fine = sum((slices - p + 1) * length for p in range(1, iterations + 1))
    coarse = {
        "slice": slices - iterations,
        "root": sum(slices - p for p in range(iterations + 1)),
    }[placement]
    assert done.evaluations == fine + coarse
    bound = iterations * length + slices - iterations
    assert done.result.evaluations_deep == bound
    assert done.result.calls_deep >= bound
    if world.size == 1 and batching == "auto":
        assert done.result.calls_deep == bound


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_batching_changes_nothing_but_rounding(world, exact, placement):
    given = {**exact, "steps": 64, "slices": 8, "max_iterations": 4, "tolerance": 1e-300}
    single = run(world, **given, placement=placement)
    batched = run(world, **(given | {"batching": "auto"}), placement=placement)
    torch.testing.assert_close(batched.boundary, single.boundary, rtol=0, atol=1e-12)


def test_the_sequential_sampler_hands_its_state_from_rank_to_rank_unchanged(world, exact):
    given = {**exact, "steps": 30, "slices": 8, "method": "sequential"}
    relay, alone = run(world, **given), run_alone(world, **given)
    assert torch.equal(relay.boundary, alone.boundary)
    assert relay.evaluations == relay.result.calls_deep == 30


def test_a_run_stops_at_the_first_iteration_at_which_every_sample_has_passed(world, exact):
    done = run(world, **exact, steps=100, slices=10, tolerance=0.5)
    passed = done.outcome.changes < 0.5
    assert passed.any(axis=0).all()
    assert done.outcome.converged
    assert not done.outcome.exact
    assert np.array_equal(done.outcome.stopped_at, passed.argmax(axis=0) + 1)
    assert done.outcome.iterations == done.outcome.stopped_at.max()
    moved = (done.boundary[1:, -1] - done.boundary[:-1, -1]).abs().flatten(2).mean(2) * 127.5
    np.testing.assert_allclose(done.outcome.changes, moved.numpy(), rtol=1e-12)


def test_a_run_that_used_up_its_iterations_says_so(world, exact):
    done = run(world, **exact, steps=100, slices=10, tolerance=1e-9, max_iterations=2)
    assert not done.outcome.converged
    assert done.outcome.iterations == 2
    assert (done.outcome.stopped_at == 0).all()


def test_a_slice_whose_start_state_did_not_move_is_not_solved_again(world, exact):
    """A network that sees nothing (x0 = 0) makes every coarse solve exact: nothing moves."""

    class Blind:
        shape, prediction, data_range = (2,), "sample", (-1.0, 1.0)
        alphas_cumprod = 1 - np.linspace(0.001, 0.9, 100)

        def __call__(self, x, t, alpha_bar):
            return torch.zeros_like(x)

    given = {"dtype": "float64", "batching": "off", "samples": 2, "steps": 8, "slices": 8}
    done = run(world, Blind(), **given, tolerance=1e-300, max_iterations=8)
    # One step a slice: F = G to the bit, so iteration 1 moves nothing, and what is evaluated is
    # the predictor sweep and the fine solves of iteration 0.
    assert done.evaluations == 8 + 8
    assert (done.outcome.changes == 0).all()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("samples", [1, 4])
def test_a_sample_does_not_depend_on_the_samples_beside_it(world, exact, placement, samples):
    given = {**exact, "steps": 64, "slices": 8, "max_iterations": 3, "tolerance": 1e-300}
    some = run(world, **(given | {"samples": samples}), placement=placement)
    more = run(world, **(given | {"samples": 6}), placement=placement)
    assert torch.equal(more.boundary[:, :, :samples], some.boundary)


def test_one_process_that_evaluates_one_at_a_time_never_speculates(exact):
    """Oldest iteration first: nothing beyond the answer is evaluated while it is being made."""
    done = run(LocalWorld(), **exact, steps=88, slices=11, tolerance=0.05, placement="root")
    k = done.outcome.iterations
    assert 1 < k < 11
    fine = sum((11 - p + 1) * 8 for p in range(1, k + 1))
    assert done.evaluations == fine + sum(11 - p for p in range(k + 1))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_where_the_coarse_solve_does_not_see_the_change_the_fine_one_is_taken_to_the_bit(
    world, placement
):
    """f + (g_new - g_old), in that order: with g_new = g_old it is f itself."""

    class BlindAtTheStartOfTheLastSlice(Contraction):
        def __call__(self, x, t, alpha_bar):
            blind = (alpha_bar - levels[28].alpha_bar).abs() < 1e-12
            return torch.where(blind[:, None], torch.full_like(x, 0.3), torch.tanh(2 * x))

    levels = Spacing().levels(NoiseSchedule(Contraction.alphas_cumprod), 32)
    network = BlindAtTheStartOfTheLastSlice()
    done = run(
        world, network, dtype="float64", batching="off", samples=3,
        steps=32, slices=8, placement=placement, max_iterations=4, tolerance=1e-300,
    )  # fmt: skip
    for k in range(1, 5):
        x = done.boundary[k - 1, 7]
        for here, there in pairwise(levels[28:]):
            alpha_bar = torch.full((3,), here.alpha_bar, dtype=torch.float64)
            x0, eps, *_ = predict(
                "sample", x, network(x, None, alpha_bar), *coefficients(x, alpha_bar)
            )
            x = sqrt(there.alpha_bar) * x0 + sqrt(1 - there.alpha_bar) * eps
        assert not torch.equal(done.boundary[k, 7], done.boundary[k - 1, 7])
        assert torch.equal(done.boundary[k, 8], x)
