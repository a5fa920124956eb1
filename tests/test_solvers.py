"""The laws of Parareal for every solver, on every transport, placement and rank count."""

from __future__ import annotations

import pytest
import torch
from runs import run

from pint_diffusion.runtime.world import World
from pint_diffusion.solvers import SOLVERS

PLACEMENTS = ["root", "slice"]
VARIANTS = {
    **{name: {"solver": name} for name in SOLVERS},
    "ddim, eta 1": {"solver": "ddim", "eta": 1.0},
    "ddpm, fixed_large": {"solver": "ddpm", "variance": "fixed_large"},
    "heun, churn": {"solver": "heun", "churn": 8.0, "churn_max": 50.0},
    "lambda_ddim, negative": {"solver": "lambda_ddim", "lam": -0.5},
    **{
        f"{name}, restart": {"solver": name, "history": "restart"}
        for name, solver in SOLVERS.items()
        if solver.history
    },
    **{
        f"{name}, summed noise": {"solver": name, "coarse_noise": "sum"}
        for name, solver in SOLVERS.items()
        if solver.noise is True
    },
    "heun, churn, summed noise": {
        "solver": "heun", "churn": 8.0, "churn_max": 50.0, "coarse_noise": "sum"
    },
    "ddim, coarse heun": {"coarse_solver": "heun", "coarse_steps": 2},
    "dpmpp_2m, coarse dpmpp_2s": {"solver": "dpmpp_2m", "coarse_solver": "dpmpp_2s"},
    "ddpm, coarse sde_dpmpp_1": {
        "solver": "ddpm", "coarse_solver": "sde_dpmpp_1", "coarse_noise": "sum", "coarse_steps": 2
    },
}  # fmt: skip


@pytest.fixture
def exact(mixture_file):
    """Settings under which equalities hold to the bit."""
    return {
        "model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 2,
        "steps": 20, "slices": 8,
    }  # fmt: skip


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_solver_is_exact_after_m_iterations_with_the_same_bits_on_any_ranks(
    world, exact, placement, variant
):
    given = {**exact, **VARIANTS[variant], "tolerance": 1e-300}
    done = run(world, **given, placement=placement)
    walk = run(World(), **given, method="sequential")
    alone = run(World(), **given, placement="root")
    assert done.outcome.iterations == 8
    for k in range(9):
        assert torch.equal(done.boundary[k, : k + 1], walk.boundary[0, : k + 1])
    assert not torch.equal(done.boundary[2], walk.boundary[0])
    assert torch.equal(done.boundary, alone.boundary)
    assert done.solution.clock.deep == alone.solution.clock.deep
