"""Solvers alone: orders of accuracy, and the laws that stochastic ones sample."""

from __future__ import annotations

from functools import cache
from math import log

import numpy as np
import pytest
import torch
from helpers.walks import Study, now, slope
from scipy.integrate import solve_ivp

from pint_diffusion.grid import level_of_sigma
from pint_diffusion.solvers import SOLVERS

DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver().stochastic]
MULTISTEP = [name for name, solver in SOLVERS.items() if solver.history]
STEPS = (64, 128, 256, 512)
CARRIES_EPS = ("deis", "pndm")


@cache
def reference():
    """The mixture's probability-flow ODE dy / d log sigma = sigma eps, by an adaptive solver."""
    study = Study()
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 2)))
    levels = study.levels(1)

    def slope_of(log_sigma, y):
        level = level_of_sigma(study.schedule, float(np.exp(log_sigma)))
        eps = study.see(torch.from_numpy(y.reshape(8, 2)) * level.a, level).eps
        return (level.sigma * eps).numpy().ravel()

    solution = solve_ivp(
        slope_of, (log(study.high), log(study.low)), (start / levels[0].a).numpy().ravel(),
        method="DOP853", rtol=1e-13, atol=1e-13, dense_output=True,
    )  # fmt: skip
    return (
        study,
        start,
        lambda level: level.a * torch.from_numpy(solution.sol(log(level.sigma)).reshape(8, 2)),
    )


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name not in MULTISTEP])
def test_a_one_step_solver_has_its_order_of_accuracy(name):
    study, start, exact = reference()
    errors = []
    for steps in STEPS:
        levels = study.levels(steps)
        errors.append(
            float((study.walk(SOLVERS[name](), levels, start) - exact(levels[-1])).norm())
        )
    assert slope(STEPS, errors) == pytest.approx(SOLVERS[name].order, abs=0.15)


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_multistep_solver_has_its_order_between_the_first_steps_and_the_last(name):
    """With an exact history, and without the ends of the walk, where orders are lower."""
    study, _, exact = reference()
    solver = SOLVERS[name]()
    errors = []
    for steps in STEPS[1:]:
        levels = study.levels(steps)
        first, end = steps // 8, steps - steps // 8
        x, past = exact(levels[first]), history(name, study, exact, levels, first)
        propagator = study.propagator(solver, levels)
        for i in range(first, end):
            x, past = now(propagator.step(study.evaluate, x, past, i))
        errors.append(float((x - exact(levels[end])).norm()))
    assert slope(STEPS[1:], errors) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_multistep_solver_that_starts_by_itself_has_second_order_at_least(name):
    study, start, exact = reference()
    errors = []
    for steps in STEPS:
        levels = study.levels(steps)
        errors.append(
            float((study.walk(SOLVERS[name](), levels, start) - exact(levels[-1])).norm())
        )
    assert slope(STEPS, errors) > 1.85


def history(name, study, exact, levels, i):
    """What a solver would carry into step i of a walk without errors."""
    seen = [study.see(exact(levels[i - j]), levels[i - j]) for j in range(1, 5)]
    values = [s.eps if name.startswith(CARRIES_EPS) else s.x0 for s in seen]
    return tuple(values[: SOLVERS[name].history])


SAMPLES = 100_000
BOUND = 5.0
"""Standard errors of SAMPLES draws; the discretisation's own bias is below one or two of them."""

ONE_MAP = {
    "ddpm": {}, "sde_dpmpp_1": {}, "ddim": {"eta": 1.0}, "euler_ancestral": {"eta": 1.0},
}  # fmt: skip


def given_noise(samples):
    def noise(i):
        draw = torch.Generator().manual_seed(1000 + i)
        return torch.randn((samples, 2), generator=draw, dtype=torch.float64)

    return noise


@pytest.mark.parametrize("name", ONE_MAP)
def test_four_stochastic_solvers_are_one_map(name):
    study = Study(low=0.02)
    noise = given_noise(50)
    levels = study.levels(40, clean=True)
    ends = [
        study.walk(SOLVERS[one](**ONE_MAP[one]), levels, noise(-1), noise) for one in (name, "ddpm")
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-11)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("ddpm", {}, 400),
        ("ddpm", {"variance": "fixed_large"}, 400),
        ("ddim", {"eta": 0.5}, 400),
        ("heun", {"churn": 40.0, "churn_min": 0.02, "churn_max": 10.0}, 150),
        ("ou_sde", {}, 400),
    ],
    ids=str,
)
def test_a_stochastic_solver_samples_the_law_of_the_data(name, options, steps):
    study = Study(low=0.02)
    noise = given_noise(SAMPLES)
    solver = SOLVERS[name](**options)
    assert solver.stochastic
    x = study.walk(solver, study.levels(steps, clean=True), noise(-1), noise).numpy()
    for found, expected in moments(x, study):
        error = found.std(axis=0) / np.sqrt(SAMPLES)
        assert (np.abs(found.mean(axis=0) - expected) < BOUND * error).all()


def moments(x, study):
    """Per sample and in expectation: values, products about the mean, shares of the modes."""
    weights, means, variances = study.weights, study.means, study.variances
    mean = weights @ means
    spread = means - mean
    covariance = sum(
        w * (np.outer(d, d) + v * np.eye(2))
        for w, d, v in zip(weights, spread, variances, strict=True)
    )
    apart = x - mean
    log = np.log(weights / variances) - np.square(x[:, None] - means).sum(axis=2) / 2 / variances
    share = np.exp(log - log.max(axis=1, keepdims=True))
    yield x, mean
    yield apart[:, :, None] * apart[:, None, :], covariance
    yield share / share.sum(axis=1, keepdims=True), weights
