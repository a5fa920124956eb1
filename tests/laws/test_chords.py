"""CHORDS: core 0 is the sequential walk, results stream out in order, same bits on any ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.flat import flags, settings_of
from helpers.grids import make_grid
from helpers.networks import stiff
from helpers.runs import run, run_plan
from PIL import Image

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.commands.cli import main
from pint_diffusion.errors import InputError
from pint_diffusion.grid.schedule import NoiseSchedule
from pint_diffusion.methods.chords import PUBLISHED, starts_of
from pint_diffusion.methods.problem import Restart
from pint_diffusion.run import solve
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.solvers import SOLVERS
from pint_diffusion.store.master import read_run

JUMPING = ["ddim", "lambda_ddim", "euler", "dpmpp_1", "flow_euler", "ou_ode"]
SEQUENTIAL = {"method": "sequential", "starts": ()}
STARTS = (0, 2, 4, 7, 10, 14, 18, 21)
"""Of eight cores in 24 steps: no distance divides all others, and some corrections fall on N."""


@pytest.fixture
def exact(mixture_file):
    """Settings under which equalities hold to the bit."""
    return {
        "model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 3,
        "steps": 24, "method": "chords", "starts": STARTS, "tolerance": 0,
    }  # fmt: skip


def results(done):
    return done.boundary[:, -1]


def test_it_is_cores_that_ranks_own_and_not_slices(world, exact):
    done = run(world, **exact, slices=1)
    walk = run(LocalWorld(), **(exact | SEQUENTIAL))
    assert torch.equal(done.answer, walk.answer)


@pytest.mark.parametrize(
    "choice",
    [*({"solver": solver} for solver in JUMPING), {"solver": "euler_ancestral", "eta": 0.0}],
    ids=lambda choice: choice["solver"],
)
def test_core_0_is_the_sequential_walk(exact, choice):
    done = run(LocalWorld(), **(exact | choice))
    assert torch.equal(done.answer, run(LocalWorld(), **(exact | choice | SEQUENTIAL)).answer)
    assert (done.outcome.iterations, done.outcome.exact) == (8, True)
    errors = (results(done) - done.answer).abs().amax(dim=(1, 2, 3, 4))
    assert errors[0] > errors[4]
    assert torch.equal(
        run(LocalWorld(), stiff(), **(exact | choice)).answer,
        run(LocalWorld(), stiff(), **(exact | choice | SEQUENTIAL)).answer,
    )


def test_all_results_and_all_that_is_kept_have_the_same_bits_on_any_ranks(world, exact):
    done, alone = run(world, **exact), run(LocalWorld(), **exact)
    assert torch.equal(done.answer, run(LocalWorld(), **(exact | SEQUENTIAL)).answer)
    assert torch.equal(done.boundary, alone.boundary)
    assert np.array_equal(done.outcome.changes, alone.outcome.changes)
    assert done.result.evaluations_deep == 24
    assert done.evaluations == sum(24 - start for start in STARTS)
    batched = run(world, **(exact | {"batching": "auto"}))
    assert torch.allclose(results(batched), results(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize("starts", [(0,), (0, 20), (0, 3, 6, 9), STARTS, tuple(range(0, 24, 2))])
def test_a_serial_loop_in_numpy_finds_the_same_results(exact, mixture_file, starts):
    mixture = reference.Mixture(mixture_file)
    done = run(LocalWorld(), **(exact | {"starts": starts}))
    noise = done.plan.problem.noise.numpy().reshape(3, -1)
    expected = reference.chords(mixture, noise, reference.alpha_bars(24), starts)
    found = results(done).numpy().reshape(len(starts) + 1, 3, -1)
    assert np.abs(found - np.array([x for _, x in expected])).max() < 1e-12


@pytest.mark.parametrize("k", range(1, 9))
def test_result_k_is_as_deep_as_the_chain_of_its_core(exact, k):
    done = run(LocalWorld(), **(exact | {"max_iterations": k}))
    core = 8 - k
    assert done.result.evaluations_deep == core + 24 - STARTS[core]
    assert (done.outcome.iterations, done.outcome.exact) == (k, k == 8)


def test_the_published_starts_take_the_published_ticks(exact):
    """50 steps on 8 cores: results at 17, 24, ... of 50 evaluations in a row, 2.9 x at best."""
    given = exact | {"steps": 50, "starts": (), "cores": 8}
    deep = [
        run(LocalWorld(), **(given | {"max_iterations": k})).result.evaluations_deep
        for k in (1, 2, 8)
    ]
    assert deep == [17, 24, 50]
    serial = reference.chords(
        lambda x, here: x, np.zeros((1, 1)), reference.alpha_bars(50), PUBLISHED
    )
    assert [tick for tick, _ in serial] == [8, 17, 24, 31, 38, 45, 48, 49, 50]


def test_results_arrive_in_order_and_are_told_with_their_change(exact):
    plan, told = plan_of(settings_of(**exact), LocalWorld()), []
    done = solve(plan, LocalWorld(), [lambda k, answer, change: told.append((k, change))])
    assert [k for k, _ in told] == list(range(9))
    assert told[0][1] is None
    assert np.array_equal([change for _, change in told[1:]], done.change)


def test_a_tolerance_stops_once_all_samples_have_changed_by_less(world, exact):
    whole = run(LocalWorld(), **exact)
    passed = whole.outcome.changes < 1e-3
    assert not passed[0].any()
    done = run(world, **(exact | {"tolerance": 1e-3}))
    expected = passed.argmax(axis=0) + 1
    assert done.outcome.iterations == expected.max() < 8
    assert np.array_equal(done.outcome.stopped_at, expected)
    assert torch.equal(done.answer, results(whole)[expected.max()])


def test_what_is_kept_of_a_result_is_all_that_is_needed_to_go_on(world, exact):
    """Each result's checkpoint, alone, leads to the bits of the undisturbed run, on any ranks."""
    alone, plan = run(LocalWorld(), **exact), plan_of(settings_of(**exact), world)
    saved = alone.states
    assert all({n for n, j in saved if j == k} == set(range(k, 9)) for k in range(9))
    for k in range(9) if world.size == 1 else (0, 3, 6):
        restart = Restart(k, lambda n, k=k: saved[n, k], list(alone.outcome.changes[:k]))
        again = run_plan(plan, world, restart)
        assert np.array_equal(again.outcome.changes, alone.outcome.changes)
        assert again.states.keys() == {(n, j) for n, j in saved if j >= k}
        for at, x in again.states.items():
            assert torch.equal(x, saved[at]), at


def test_a_run_that_was_stopped_is_gone_on_with_to_the_same_bits(exact, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["sample", *flags(exact), "--out", str(whole), "--verify"]) == 0
    assert "equal bit for bit" in capsys.readouterr().out
    assert main(["sample", *flags(exact), "--out", str(parts), "--max-iterations", "3"]) == 3
    assert "8 are always enough" in capsys.readouterr().out
    assert main(["resume", str(parts), "--max-iterations", "8"]) == 0
    expected, found = read_run(whole), read_run(parts)
    assert found.facts["resumed_after"] == 3
    assert np.array_equal(found.samples, expected.samples)
    assert np.array_equal(found.boundary, expected.boundary)
    assert found.boundary.shape[:2] == (9, 9)
    assert np.array_equal(found.change, expected.change)
    assert (parts / "refinement.png").exists()


@pytest.mark.parametrize("method", ["chords", "parareal", "sequential"])
def test_the_stream_has_a_picture_of_every_iteration_and_says_so(exact, tmp_path, capsys, method):
    given = exact | {"method": method, "tolerance": 0, "slices": 4}
    if method != "chords":
        del given["starts"]
    out = tmp_path / "run"
    assert main(["sample", *flags(given), "--stream", "--out", str(out)]) == 0
    last = {"chords": 8, "parareal": 4, "sequential": 0}[method]
    names = [f"iteration-{k:02d}.png" for k in range(last + 1)]
    assert sorted(path.name for path in (out / "stream").iterdir()) == names
    said = capsys.readouterr().err
    assert [name for name in names if name not in said] == []
    with Image.open(out / "stream" / names[-1]) as a, Image.open(out / "samples.png") as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert main(["sample", *flags(given), "--force", "--out", str(out)]) == 0
    assert not list((out / "stream").iterdir())


def test_a_file_in_place_of_the_stream_is_named(exact, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "stream").write_text("mine")
    assert main(["sample", *flags(exact), "--stream", "--force", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("error") == said.count("holds no run that --force may overwrite") == 1
    assert (out / "stream").read_text() == "mine"


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - set(JUMPING)))
def test_other_solvers_are_refused_in_one_sentence(exact, solver):
    with pytest.raises(InputError, match="the method chords jumps with one evaluation"):
        plan_of(settings_of(**exact, solver=solver), LocalWorld())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"starts": (1, 4)}, "`starts` 1,4 must begin with 0"),
        ({"starts": (0, 4, 5)}, "rise by 2 or more, up to 22"),
        ({"starts": (0, 23)}, "`starts` 0,23 must"),
        ({"starts": (0, 4), "cores": 3}, "`starts` has 2 points and `cores` is 3"),
        ({"starts": (), "cores": 13}, "`cores` 13 is too many for 24 steps"),
    ],
    ids=str,
)
def test_starts_that_do_not_fit_are_refused(exact, given, named):
    with pytest.raises(InputError, match=named):
        plan_of(settings_of(**(exact | given)), LocalWorld())


@pytest.mark.parametrize("steps", [2, 3, 7, 16, 17, 50, 64, 1000])
def test_there_are_starts_for_every_number_of_cores_that_has_room(steps):
    grid = make_grid(NoiseSchedule.ddpm_linear(), steps, 1)
    for cores in range(1, min(steps // 2, 40) + 1):
        t = starts_of(grid, cores=cores, starts=())
        assert len(t) == cores
        assert t[0] == 0
        assert (np.diff([*t, steps]) >= 2).all()


def test_the_published_starts_are_scaled_and_others_are_even():
    grid = make_grid(NoiseSchedule.ddpm_linear(), 100, 1)
    assert starts_of(grid, cores=8, starts=()) == tuple(2 * start for start in PUBLISHED)
    assert starts_of(grid, cores=4, starts=()) == (0, 20, 40, 60)
