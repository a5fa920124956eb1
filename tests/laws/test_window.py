"""What is particular to the window method: its slope, its predictor, its tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.runs import run

from pint_diffusion.grid import Level
from pint_diffusion.methods.rounds.window import Line, columns, line_weights, slopes, spreads
from pint_diffusion.models.mixture import GaussianMixture
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.solvers.response import Responses

LEVELS = [Level(0.0, alpha_bar) for alpha_bar in (1e-5, 0.02, 0.4, 0.8, 0.9999)]


def responses(levels):
    """Responses of steps that begin at some levels, as far as it is about levels."""
    a, s = (np.array([[getattr(level, name)] for level in levels]) for name in "as")
    return Responses(tuple((level,) for level in levels), a, s, np.empty((len(levels), 2, 2, 1)))


def of_levels(levels):
    """`columns` of slots at some levels, (L, 1, 1, 3)."""
    return torch.from_numpy(columns(responses(levels)))[:, None]


def mixture(components, shape, variances):
    draw = np.random.default_rng(7)
    means = draw.uniform(-1, 1, (components, *shape))
    weights = np.full(components, 1 / components)
    return GaussianMixture(means, variances, weights, torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("solver", ["ddim", "heun", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("variance", [0.05, 1.0, 20.0])
def test_of_gaussian_data_all_slopes_are_known_after_two_evaluations(solver, variance):
    """The first two rounds find the slopes, the third is exact, the fourth says so."""
    given = {"solver": solver, "steps": 20, "window": 20, "samples": 3, "dtype": "float64"}
    network = mixture(1, (1, 3, 2), [variance])
    done = run(LocalWorld(), network, **given, method="window", tolerance=1e-8)
    walk = run(LocalWorld(), network, **given | {"window": None}, method="sequential")
    assert done.outcome.iterations <= 4
    assert (done.answer - walk.answer).abs().max() < 1e-8


@pytest.mark.parametrize("level", LEVELS)
def test_any_slope_is_between_frozen_noise_and_frozen_picture(level):
    """The secant is of a network whose share of signal in a move is w, and w is kept in [0, 1]."""
    shares = torch.tensor([-3.0, 0.0, 0.3, 1.0, 7.0]).double()
    at = of_levels([level] * 5).transpose(0, 1)
    before = torch.zeros(2, 1, 5, 4, dtype=torch.float64)
    move = torch.ones(1, 5, 4, dtype=torch.float64)
    evaluated = torch.stack([move, (1 - shares[:, None]) / level.s * move])
    kappa = slopes(spreads(evaluated, before, at[:, :, 0]), at)[0, :, 0]
    assert ((kappa >= 0) & (kappa <= 1 / level.s)).all()
    assert float(kappa[2]) == pytest.approx(0.7 / level.s)


def test_a_point_without_a_secant_takes_what_the_nearest_earlier_one_found():
    """Of Gaussian data of variance v every point has kappa = s / (s^2 + a^2 v)."""
    v, nan, at = 0.3, torch.nan, of_levels(LEVELS)
    a, s = (torch.from_numpy(one)[:, None] for one in (responses(LEVELS).a, responses(LEVELS).s))
    kappa = s / (s**2 + v * a**2)
    moves = torch.tensor([nan, 0.1, nan, 0.0, 0.2]).double().view(5, 1, 1).expand(5, 1, 3)
    evaluated = torch.stack([moves.nan_to_num(0.5), (kappa * moves).nan_to_num(0.5)])
    before = torch.where(torch.isnan(moves), nan, torch.zeros(2, 5, 1, 3).double())
    found = slopes(spreads(evaluated, before, at[:, :, 0]), at)[:, 0, 0]
    assert float(found[0]) == pytest.approx(float(s[0]))  # no secant yet: v is frozen
    torch.testing.assert_close(found[1:], kappa[1:, 0, 0])


@pytest.mark.parametrize("points", [1, 2, 4])
def test_the_line_goes_on_as_noise_went_so_far_and_keeps_the_state_whole(points):
    draw = np.random.default_rng(0)
    start, rise, x = (torch.from_numpy(draw.standard_normal((2, 3))) for _ in range(3))
    rise = rise if points > 1 else torch.zeros_like(rise)

    def clock(level):
        return level.s / (level.a + level.s)

    clocks = torch.tensor([clock(level) for level in LEVELS[:points]]).double()
    seen = start + clocks[:, None, None] * rise
    weights = torch.from_numpy(line_weights(responses(LEVELS[:points]), points)[-1])
    said = Line(seen, weights[:, :, None, None])(x, LEVELS[-1])
    a, s = LEVELS[-1].a, LEVELS[-1].s
    assert torch.allclose(said.eps, start + clock(LEVELS[-1]) * rise)
    assert torch.allclose(a * said.x0 + s * said.eps, x)


def test_a_sample_does_the_same_beside_others(mixture_file):
    given = {
        "model": f"gmm:{mixture_file}", "method": "window", "window": 6, "steps": 30,
        "batching": "off",
    }  # fmt: skip
    many, few = (run(LocalWorld(), **given, samples=samples) for samples in (7, 2))
    assert len(set(many.outcome.stopped_at)) > 1
    assert np.array_equal(few.outcome.stopped_at, many.outcome.stopped_at[:2])
    assert torch.equal(few.answer, many.answer[:2])


@pytest.mark.parametrize(("window", "most"), [(8, 15), (32, 9)])
def test_of_a_mixture_as_large_as_a_picture_few_rounds_are_within_the_tolerance(window, most):
    """Goals set before it was built, for a relative error of 1e-3."""
    network = mixture(8, (3, 32, 32), np.geomspace(0.02, 0.3, 8))
    given = {"steps": 100, "samples": 2, "dtype": "float64"}
    done = run(LocalWorld(), network, **given, method="window", window=window, tolerance=6e-3)
    walk = run(LocalWorld(), network, **given, method="sequential")
    assert (done.answer - walk.answer).norm() <= 1e-3 * walk.answer.norm()
    assert done.outcome.iterations <= most
