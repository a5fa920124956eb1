"""The network call: rows that do not fit, outputs that are looked at late, evaluations together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.flat import settings_of
from helpers.networks import Contraction
from helpers.runs import States, run, run_plan

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.errors import NetworkError, NetworkRaisedError, RunFailed
from pint_diffusion.grid import Level, TimeGrid
from pint_diffusion.run import solve
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.events import EVALUATION_KINDS
from pint_diffusion.runtime.requests import Ask
from pint_diffusion.runtime.world import LocalWorld

LEVELS = (Level(9.0, 0.1), Level(4.0, 0.5), Level(-1.0, 1.0))
GRID = TimeGrid(LEVELS, (0, 2))


class Small(Contraction):
    """Has memory for some rows only."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.sizes = []

    def __call__(self, x, t, alpha_bar):
        self.sizes.append(len(x))
        if len(x) > self.rows:
            raise torch.OutOfMemoryError(f"no room for {len(x)} rows")
        return alpha_bar[:, None] * super().__call__(x, t, alpha_bar) + t[:, None]


def evaluator(network) -> Evaluator:
    cpu = torch.device("cpu")
    return Evaluator(network, GRID, cpu, torch.float64, torch.float64)


def requests(count=3, samples=4):
    draw = torch.Generator().manual_seed(0)
    return [
        Ask("fine", 0, 0)(
            torch.randn(samples, 2, dtype=torch.float64, generator=draw), LEVELS[i % 2]
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 11])
def test_a_call_without_room_is_halved_until_it_fits_and_says_the_same(rows):
    network = Small(rows)
    halving, expected = evaluator(network), evaluator(Small(12))(requests())
    for _ in range(2):
        network.sizes.clear()
        for part, other in zip(halving(requests()), expected, strict=True):
            assert torch.equal(part.x0, other.x0)
            assert torch.equal(part.eps, other.eps)
    assert max(network.sizes) <= rows  # the second call has learnt from the first


def test_rows_of_one_level_are_halved_too():
    (one,) = requests(1, samples=12)
    (part,), (other,) = evaluator(Small(5))([one]), evaluator(Small(12))([one])
    assert torch.equal(part.x0, other.x0)


def test_a_network_with_labels_is_given_all_samples_in_every_part():
    network = Small(5)
    network.labels = [0, 1, 2, 3]
    evaluator(network)(requests())
    assert network.sizes == [12, 4, 4, 4]


def test_one_row_without_room_fails():
    with pytest.raises(NetworkRaisedError, match="no room for 1 rows"):
        evaluator(Small(0))(requests())


def test_a_late_look_is_at_the_next_call_or_on_demand():
    """As on a GPU, whose calls go on while their caller does something else."""
    late = evaluator(Contraction(lambda calls, out: out * float("nan")))
    late.late = True
    late(requests())
    with pytest.raises(NetworkError, match="slice 0, iteration 0, step 0, sample 0"):
        late(requests())
    late(requests())
    with pytest.raises(NetworkError, match="NaN"):
        late.check()
    late.check()


@pytest.mark.parametrize("method", ["sequential", "parareal", "window"])
@pytest.mark.parametrize("bad", [1, 5, 12])
def test_nothing_that_came_of_nan_is_recorded_however_late_it_is_seen(method, bad):
    network = Contraction(lambda calls, out: out * float("nan") if calls >= bad else out)
    given = {"method": method, "steps": 12, "samples": 2, "slices": 3, "batching": "off"}
    plan = plan_of(settings_of(**given, tolerance=0), LocalWorld(), network)
    plan.evaluators[0].late = True
    states = States()
    with pytest.raises(RunFailed, match="NaN"):
        solve(plan, LocalWorld(), [states])
    # A window has NaN where there is no point, and never in a part of one.
    for x in (x for x in states.kept.values() if x is not None):
        lost = torch.isnan(x[0]).flatten(1)
        assert torch.equal(lost.any(dim=1), lost.all(dim=1))
        assert method == "window" or not lost.any()


@pytest.mark.parametrize("method", ["sequential", "parareal", "window"])
def test_a_late_look_changes_neither_bits_nor_events(method):
    given = {"method": method, "steps": 12, "samples": 2, "slices": 3, "batching": "off"}
    expected = run(LocalWorld(), Contraction(), **given)
    plan = plan_of(settings_of(**given), LocalWorld(), Contraction())
    plan.evaluators[0].late = True
    done = run_plan(plan, LocalWorld())
    assert torch.equal(done.answer, expected.answer)
    made = done.events[np.isin(done.events["kind"], EVALUATION_KINDS)]
    assert len(made) == expected.evaluations
    assert (made["stop"] >= made["start"]).all()
