"""The laws of Parareal for every solver, on every transport, placement and rank count."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import networks, reference
from helpers.networks import Contraction
from helpers.runs import run, run_alone

from pint_diffusion.report.bound import dataflow_bound
from pint_diffusion.solvers import DDIM, SOLVERS
from pint_diffusion.solvers.linear import try_walk

PLACEMENTS = ["root", "slice"]


def network(factory):
    return f"{Path(networks.__file__)}:{factory}"


VARIANTS = {
    **{name: {"solver": name} for name in SOLVERS},
    "ddim, eta 1": {"solver": "ddim", "eta": 1.0},
    "ddpm, fixed_large": {"solver": "ddpm", "variance": "fixed_large"},
    "heun, churn": {"solver": "heun", "churn": 8.0, "churn_max": 50.0},
    "lambda_ddim, negative": {"solver": "lambda_ddim", "lam": -0.5},
    **{
        f"{name}, restart": {"solver": name, "carry": False}
        for name, solver in SOLVERS.items()
        if solver.history
    },
    **{
        f"{name}, coarse ddim": {"solver": name, "coarse_noise": "none"}
        for name, solver in SOLVERS.items()
        if solver().stochastic
    },
    "heun, churn, coarse ddim": {
        "solver": "heun", "churn": 8.0, "churn_max": 50.0, "coarse_noise": "none"
    },
    "heun, churn, summed noise": {
        "solver": "heun", "churn": 8.0, "churn_max": 50.0, "coarse_noise": "sum"
    },
    "ddim, coarse heun": {"coarse_solver": "heun", "coarse_steps": 2},
    "dpmpp_2m, coarse dpmpp_2s": {"solver": "dpmpp_2m", "coarse_solver": "dpmpp_2s"},
    "ddpm, coarse sde_dpmpp_1": {
        "solver": "ddpm", "coarse_solver": "sde_dpmpp_1", "coarse_noise": "sum", "coarse_steps": 2
    },
    "a flow from pure noise, flow_heun": {"model": network("flow"), "solver": "flow_heun"},
    "a flow from pure noise, dpmpp_2m": {"model": network("flow"), "solver": "dpmpp_2m"},
    "EDM with churn": {
        "model": network("edm"), "spacing": "karras", "solver": "heun", "churn": 8.0,
        "churn_max": 50.0,
    },
    "guidance": {"model": network("labelled"), "labels": (0, 3), "guidance": 3.0},
    "learned variance": {
        "model": network("labelled_with_variance"), "solver": "ddpm", "variance": "learned_range",
    },
    "another coarse network": {"solver": "dpmpp_2m", "coarse_model": "another"},
}  # fmt: skip


@pytest.fixture
def exact(mixture_file):
    """Settings under which equalities hold to the bit."""
    return {
        "model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 2,
        "steps": 20, "slices": 8,
    }  # fmt: skip


def another(model, folder):
    """A mixture that is a little different, on a schedule of its own."""
    with np.load(model.removeprefix("gmm:")) as file:
        arrays = dict(file)
    schedule = np.cumprod(1 - np.linspace(1e-4, 0.03, 800))
    arrays["means"] *= 0.9
    np.savez(folder / "coarse.npz", **arrays, alphas_cumprod=schedule)
    return f"gmm:{folder / 'coarse.npz'}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_solver_is_exact_after_m_iterations_with_the_same_bits_on_any_ranks_and_placement(
    world, exact, variant, tmp_path
):
    given = {**exact, **VARIANTS[variant], "tolerance": 1e-300}
    if given.get("coarse_model"):
        given["coarse_model"] = another(given["model"], tmp_path)
    walk = run_alone(world, **given, method="sequential")
    alone = run_alone(world, **given, placement="root")
    for placement in PLACEMENTS:
        done = run(world, **given, placement=placement)
        assert done.outcome.iterations == 8
        for k in range(9):
            assert torch.equal(done.boundary[k, : k + 1], walk.boundary[0, : k + 1])
        assert not torch.equal(done.boundary[2], walk.boundary[0])
        assert torch.equal(done.boundary, alone.boundary)
        assert done.result.evaluations_deep == alone.result.evaluations_deep


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("carry", [True, False])
def test_every_state_of_a_multistep_solver_equals_an_independent_parareal(
    world, exact, mixture_file, placement, carry
):
    given = {**exact, "steps": 40, "max_iterations": 4, "tolerance": 1e-300}
    done = run(world, **given, solver="dpmpp_2m", carry=carry, placement=placement)
    expected = reference.parareal_2m(
        reference.Mixture(mixture_file), done.boundary[0, 0].flatten(1).numpy(),
        reference.alpha_bars(40), range(0, 41, 5), 4, carry,
    )  # fmt: skip
    compare(done, expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_state_of_a_stochastic_solver_equals_an_independent_parareal(
    world, exact, mixture_file, placement
):
    given = {**exact, "steps": 40, "max_iterations": 4, "tolerance": 1e-300, "seed": 7}
    done = run(world, **given, solver="ddpm", coarse_noise="sum", placement=placement)
    expected = reference.parareal_ddpm(
        reference.Mixture(mixture_file), done.boundary[0, 0].flatten(1).numpy(),
        reference.alpha_bars(40), range(0, 41, 5), 4, 7, (1, 3, 2),
    )  # fmt: skip
    compare(done, expected)


def compare(done, expected):
    found = done.boundary.flatten(3).numpy()
    assert found.shape == expected.shape
    error = np.abs(found - expected).max(axis=(2, 3)) / np.abs(expected).max(axis=(2, 3))
    assert error.max() < 1e-11


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_two_networks_in_batched_calls_change_nothing_but_rounding(
    world, exact, tmp_path, placement
):
    other = another(exact["model"], tmp_path)
    given = {**exact, "coarse_model": other, "max_iterations": 4, "tolerance": 1e-300}
    single = run(world, **given, placement=placement)
    batched = run(world, **(given | {"batching": "auto"}), placement=placement)
    torch.testing.assert_close(batched.boundary, single.boundary, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ["deis", "pndm"])
def test_a_history_of_zeros_is_another_state_than_none(world, exact, solver):
    """x does not move, as F = G, and what is carried is zero; but from now on it is there."""

    class BlindAtFirst(Contraction):
        prediction = "epsilon"

        def __call__(self, x, t, alpha_bar):
            return torch.where((t < 500)[:, None], torch.tanh(x), torch.zeros_like(x))

    given = {**exact, "steps": 8, "solver": solver, "tolerance": 1e-300}
    done = run(world, BlindAtFirst(), **given)
    walk = run_alone(world, BlindAtFirst(), **given, method="sequential")
    assert torch.equal(done.boundary[-1], walk.boundary[0])


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_3", "pndm"])
def test_nothing_counts_as_converged_before_all_history_is_there(world, exact, solver):
    """Slices of one step: without history F equals G, and nothing moves in iteration 1."""
    given = {**exact, "steps": 24, "slices": 24, "solver": solver}
    done = run(world, **given)
    walk = run_alone(world, **given, method="sequential")
    assert (done.answer - walk.answer).abs().mean() * 127.5 < 0.1
    assert done.outcome.iterations > SOLVERS[solver].history


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    "given",
    [
        {"solver": "heun"},
        {"solver": "heun", "churn": 8.0, "churn_max": 50.0, "coarse_noise": "none"},
        {"solver": "dpmpp_2s", "coarse_solver": "dpmpp_2s"},
        {"solver": "ddpm", "coarse_steps": 2},
        {"solver": "pndm", "carry": False},
        {"solver": "unipc"},
    ],
    ids=lambda given: given["solver"],
)
def test_evaluations_deep_are_the_bound_for_any_solver(world, exact, placement, given):
    given = {**exact, **given, "steps": 32, "max_iterations": 3, "tolerance": 1e-300}
    done = run(world, **given, placement=placement)
    problem = done.plan.problem
    counts = try_walk(problem.fine, "fine"), try_walk(problem.coarse, "coarse")
    assert done.result.evaluations_deep == dataflow_bound(*counts, 3)


def test_a_solver_that_begins_elsewhere_and_does_not_say_so_is_still_exact(
    world, exact, monkeypatch
):
    """The shared evaluation is recalled only for the state and the level that it was made of."""

    class Wary(DDIM):
        name: ClassVar[str] = "wary"
        evaluations: ClassVar[int] = 2

        async def step(self, evaluate, x, stride):
            seen = await evaluate(0.9 * x, stride.here)
            return await DDIM.step(self, evaluate, x + 0.01 * seen.x0, stride)

    monkeypatch.setitem(SOLVERS, "wary", Wary)
    given = {**exact, "solver": "wary", "coarse_solver": "ddim", "tolerance": 1e-300}
    done = run(world, **given, placement="slice")
    walk = run_alone(world, **given, method="sequential")
    assert torch.equal(done.boundary[-1], walk.boundary[0])
