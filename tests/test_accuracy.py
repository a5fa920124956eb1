"""Solvers alone: orders of accuracy, and the laws that stochastic ones sample."""

from __future__ import annotations

from functools import cache
from math import log

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from walks import Study, now, slope

from pint_diffusion.grid import level_of_sigma
from pint_diffusion.solvers import SOLVERS

DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver.stochastic]
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
        errors.append(float((study.walk(SOLVERS[name], levels, start) - exact(levels[-1])).norm()))
    assert slope(STEPS, errors) == pytest.approx(SOLVERS[name].order, abs=0.15)


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_multistep_solver_has_its_order_between_the_first_steps_and_the_last(name):
    """With an exact history, and without the ends of the walk, where orders are lower."""
    study, _, exact = reference()
    solver = SOLVERS[name]
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
        errors.append(float((study.walk(SOLVERS[name], levels, start) - exact(levels[-1])).norm()))
    assert slope(STEPS, errors) > 1.85


def history(name, study, exact, levels, i):
    """What a solver would carry into step i of a walk without errors."""
    seen = [study.see(exact(levels[i - j]), levels[i - j]) for j in range(1, 5)]
    if name.startswith("unipc"):
        values = [seen[0].x0, exact(levels[i - 1]), *(s.x0 for s in seen[1:])]
    else:
        values = [s.eps if name.startswith(CARRIES_EPS) else s.x0 for s in seen]
    return tuple(values[: SOLVERS[name].history])
