"""Laws of the corrector's step: underdamped Langevin with a frozen score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from pint_diffusion.solvers.langevin import Langevin

STEPS = [(0.1, 2.0), (1.0, 2.0), (0.01, 0.5), (1.0, 8.0), (0.5, 1e-2)]


def affine(step: Langevin) -> tuple[np.ndarray, np.ndarray]:
    """Return (U', V') as a matrix times (U, V, score), and the same of its noise times (2,)."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def column(*given: int) -> list[float]:
        u, v, score, a, b = (one if i in given else zero for i in range(5))
        return [float(out) for out in step(u, v, score, (a, b))]

    columns = np.array([column(i) for i in range(5)]).T
    return columns[:, :3], columns[:, 3:]


@pytest.mark.parametrize(("length", "friction"), STEPS)
def test_mean_and_covariance_are_those_of_the_linear_equation(length, friction):
    # d(U, V, s) = A (U, V, s) dt + noise; the covariance by Van Loan's matrix exponential
    a = np.array([[0, 1, 0], [0, -friction, 1], [0, 0, 0.0]])
    q = np.diag([0, 2 * friction, 0.0])
    block = expm(np.block([[-a, q], [np.zeros((3, 3)), a.T]]) * length)
    mean = block[3:, 3:].T
    covariance = (mean @ block[:3, 3:])[:2, :2]
    moves, noise = affine(Langevin(length, friction))
    assert moves == pytest.approx(mean[:2], rel=1e-9, abs=1e-12)
    assert noise @ noise.T == pytest.approx(covariance, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("length", "friction"), STEPS)
def test_two_half_steps_with_one_score_have_the_law_of_a_whole_one(length, friction):
    half, half_noise = affine(Langevin(length / 2, friction))
    whole, whole_noise = affine(Langevin(length, friction))
    again = np.vstack([half, [0, 0, 1]])
    assert half @ again == pytest.approx(whole, rel=1e-9, abs=1e-12)
    carried = half[:, :2] @ half_noise
    covariance = carried @ carried.T + half_noise @ half_noise.T
    assert covariance == pytest.approx(whole_noise @ whole_noise.T, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("friction", [0.5, 2.0])
def test_a_normal_law_is_kept_up_to_an_error_of_the_order_of_the_step(friction):
    wrong = []
    for length in (0.1, 0.05):
        moves, noise = affine(Langevin(length, friction))
        chain = moves[:, :2] + moves[:, 2:] @ np.array([[-1.0, 0.0]])  # the score of N(0, 1)
        covariance = np.eye(2)
        for _ in range(2000):
            covariance = chain @ covariance @ chain.T + noise @ noise.T
        wrong.append(abs(covariance[0, 0] - 1))
    assert wrong[0] < 0.2
    assert wrong[0] / wrong[1] == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize(("length", "friction"), STEPS)
def test_a_thousand_draws_have_the_moments(length, friction):
    step = Langevin(length, friction)
    noises = torch.randn(2, 100_000, dtype=torch.float64, generator=torch.manual_seed(0))
    zero = torch.zeros(100_000, dtype=torch.float64)
    u, v = step(zero + 1, zero - 1, zero + 0.5, (noises[0], noises[1]))
    moves, _ = affine(step)
    mean = moves @ [1, -1, 0.5]
    of_u, both, of_v = step.covariance
    cov = np.cov(u, v)
    assert u.mean() == pytest.approx(mean[0], abs=5 * np.sqrt(of_u / 1e5))
    assert v.mean() == pytest.approx(mean[1], abs=5 * np.sqrt(of_v / 1e5))
    assert cov[0, 0] == pytest.approx(of_u, rel=0.03)
    assert cov[1, 1] == pytest.approx(of_v, rel=0.03)
    assert cov[0, 1] == pytest.approx(both, abs=0.03 * np.sqrt(of_u * of_v))
