"""An evaluation that fails ends a run if its answer needs it and only then, whatever the timing."""

from __future__ import annotations

import time

import pytest
import torch
from helpers.flat import settings_of
from helpers.networks import Contraction
from helpers.runs import States

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.errors import RunFailed
from pint_diffusion.methods.problem import Restart
from pint_diffusion.output import Output
from pint_diffusion.run import resumed, solve
from pint_diffusion.runtime.evaluator import Evaluator

STEPS, SAMPLES = 24, 2
GIVEN = {"steps": STEPS, "samples": SAMPLES, "dtype": "float64"}
METHODS = {
    "root": {"method": "parareal", "slices": 8, "placement": "root", "tolerance": 1},
    "slice": {"method": "parareal", "slices": 8, "placement": "slice", "tolerance": 1},
    "chords": {"method": "chords", "cores": 8, "tolerance": 0.1},
    "window": {"method": "window", "window": 8, "tolerance": 1e-2},
}
FAILS = [
    *(("root", "nan", "auto"), ("slice", "late", "auto"), ("chords", "shape", "auto")),
    *(("slice", "raises", "auto"), ("slice", "nan", "off")),
]
"""Method, what the network does (`late`: NaN, looked at late, as on a GPU), and batching."""


class Doomed(Contraction):
    """Fails for the rows that it is told."""

    def __init__(self, how):
        super().__init__()
        self.how, self.rows = how, []

    def __call__(self, x, t, alpha_bar):
        out = super().__call__(x, t, alpha_bar)
        if not self.rows:
            return out
        if self.how == "raises":
            raise ZeroDivisionError("doomed")
        if self.how == "shape":
            return out[:, :1]
        out[self.rows] = torch.nan
        return out


class Choosing(Evaluator):
    """Dooms the evaluations that a function chooses by (kind, n, k)."""

    fails = staticmethod(lambda kind, n, k: False)

    def _output(self, requests, x, at):
        first, self.denoiser.rows = 0, []
        for request in requests:
            ask, count = request.ask, len(request.x)
            if self.fails(ask.kind, ask.n, ask.k):
                self.denoiser.rows += range(first, first + count)
                self.doomed.append((ask.kind, ask.n, ask.k))
            first += count
        return super()._output(requests, x, at)


def doomed_plan(world, name, how, fails, late=False, **more):
    """A plan whose evaluations fail where ``fails`` says so; those that did are in ``doomed``."""
    plan = plan_of(settings_of(**GIVEN | METHODS[name] | more), world, Doomed(how))
    (evaluator,) = plan.evaluators
    evaluator.__class__ = Choosing
    evaluator.fails, evaluator.doomed, evaluator.late = fails, [], late
    return plan, evaluator


class Slow(Output):
    """Takes its time to judge each answer, so that others speculate meanwhile."""

    def answer(self, k, answer, change):
        time.sleep(0.02)


def wasted(last):
    """What an answer after so many iterations does not need: as a run's summary counts it."""
    return lambda kind, n, k: k >= max(last, 1) if kind == "fine" else k > last


def undisturbed(world, name, **more):
    plan, _ = doomed_plan(world, name, "nan", lambda *_: False, **more)
    states = States()
    run = solve(plan, world, [states])
    return world.share(run.iterations), world.share(run.samples), states.kept


@pytest.mark.parametrize(("name", "how", "batching"), [*FAILS, ("chords", "late", "off")])
def test_what_fails_in_speculation_does_not_fail_a_run(world, name, how, batching):
    last, answer, states = undisturbed(world, name, batching=batching)
    assert 0 < last < 8
    how, late = ("nan", True) if how == "late" else (how, False)
    plan, evaluator = doomed_plan(world, name, how, wasted(last), late, batching=batching)
    kept = States()
    run = solve(plan, world, [kept, Slow()])
    assert run.iterations == last
    if world.rank == 0:
        assert run.converged
        assert torch.equal(run.samples, answer) or batching == "auto"
        torch.testing.assert_close(run.samples, answer, rtol=0, atol=1e-9)
    row = {n: x for (n, k), x in kept.kept.items() if k == last}
    assert row.keys() == {n for n, k in states if k == last}
    if batching == "auto" and name != "chords":  # one process makes speculation in shared calls
        assert sum(world.gather(len(evaluator.doomed))) > 0


@pytest.mark.parametrize(("name", "how", "batching"), [*FAILS, ("window", "nan", "auto")])
def test_what_fails_and_is_needed_fails_a_run(world, name, how, batching):
    """The last iteration's own evaluations are the newest ones that are needed."""
    last, _, _ = undisturbed(world, name, batching=batching)
    kinds = ["fine"] if name in ("chords", "window") else ["fine", "coarse"]
    for kind in kinds:
        newest = last - 1 if kind == "fine" else last
        fails = lambda k_, n, k: (k_ == "fine") == (kind == "fine") and k == newest  # noqa: B023, E731
        given = ("nan", fails, True) if how == "late" else (how, fails)
        plan, _ = doomed_plan(world, name, *given, batching=batching)
        states = States()
        with pytest.raises(RunFailed, match=PLACE[name].format(newest)) as failed:
            solve(plan, world, [states, Slow()])
        assert failed.value.exit_code == (1 if how == "raises" else 4)
        if name != "window":  # which has NaN where there is no point
            assert all(torch.isfinite(x).all() for x in states.kept.values() if x is not None)


PLACE = {
    "root": "slice \\d, iteration {}, step",
    "slice": "slice \\d, iteration {}, step",
    "chords": "core \\d, step",
    "window": "round \\d+, step",
}


BEYOND_FIRST = {
    "root": lambda kind, n, k: kind == "fine" or k > 0,
    "slice": lambda kind, n, k: kind == "fine" or k > 0,
    "chords": lambda kind, n, k: k > 0,
    "window": lambda kind, n, k: True,
}
"""What no answer of iteration 0 needs."""


class EndsAt(Output):
    """Ends a run at an iteration."""

    def __init__(self, k):
        self.k = k

    def answer(self, k, answer, change):
        time.sleep(0.02)
        return k == self.k


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("k0", [None, 1])
def test_a_run_that_is_ended_at_its_first_answer_needs_nothing_more(world, name, k0):
    """Of a run that is resumed that answer is there already."""
    restart = None
    if k0 is not None:
        plan, _ = doomed_plan(world, name, "nan", lambda *_: False)
        states = States()
        done = solve(plan, world, [states])
        kept = {key: x for one in world.gather(states.kept) for key, x in one.items()}
        changes = world.share(done.outcome.changes)
        restart = Restart(k0, lambda n: kept_of(kept, n, k0), list(changes[:k0]))
    fails = BEYOND_FIRST[name] if restart is None else lambda *_: True
    plan, _ = doomed_plan(world, name, "raises", fails)
    plan = plan if restart is None else resumed(plan, restart)
    run = solve(plan, world, [EndsAt(k0 or 0)])
    assert run.iterations == (k0 or 0)


def kept_of(kept, n, k):
    """What was kept of a column; None repeats the iteration before."""
    return next(kept[n, j] for j in range(k, -1, -1) if kept[n, j] is not None)
