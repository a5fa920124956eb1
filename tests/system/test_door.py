"""The library's door: objects in, a result out, in programs of any kind, the process left alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers.networks import Contraction

import pint_diffusion as pd
from pint_diffusion.commands.cli import main
from pint_diffusion.methods import METHODS
from pint_diffusion.report.inspection import inspect_run

GIVEN = {"steps": 16, "samples": 3, "batching": "off"}
FEW = {"parareal": pd.Parareal(slices=8, tolerance=0), "chords": pd.Chords(8, tolerance=0)}
METHOD = [FEW.get(name, kind(tolerance=0)) for name, kind in METHODS.items()]


@pytest.fixture
def mixture(mixture_file):
    return pd.load_denoiser(f"gmm:{mixture_file}", dtype=torch.float64)


def comm_of(world):
    """The communicator of a world; None for this process alone."""
    return getattr(world, "comm", None)


# ---------------------------------------------------------------- every line of the contract


def test_the_lines_of_the_contract(world, mixture, tmp_path, capsys):
    comm, shown, watched = comm_of(world), [], []
    out = world.share(tmp_path / "run")
    half = comm and comm.Split(world.rank % 2)

    def watch(k, answer, change):
        watched.append((k, tuple(answer.shape), change))

    run = pd.sample(mixture, pd.Window(8), pd.DDIM(), steps=50, samples=4, seed=0, comm=comm)
    assert run.iterations == len(run.stopped_at.nonzero()[0]) or run.converged
    assert run.evaluations > run.evaluations_deep == run.iterations
    assert run.wall_time > 0
    assert run.stopped_at.shape == (4,)
    if world.rank == 0:
        assert torch.equal(run.iterates[run.iterations], run.samples)
        assert set(run.events["rank"]) >= set(range(min(world.size, 8)))
        assert "iterations, converged" in repr(run)
    else:
        assert run.samples is None
    assert capsys.readouterr() == ("", "")

    schedule = pd.NoiseSchedule(mixture.alphas_cumprod)
    my_grid = pd.TimeGrid(pd.Spacing("karras", sigma_max=80).levels(schedule, 24), (0, 24))
    my_x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 1, 3, 2)))
    run = pd.sample(mixture, pd.Parareal(slices=8, placement="slice", tolerance=0.1),
                    pd.Heun(churn=8), grid=my_grid, noise=my_x, comm=half,
                    outputs=[pd.Files(f"{out}-{world.rank % 2}"), pd.ProgressBar(), watch],
                    gather=True, batching="off")  # fmt: skip
    record = pd.read_run(f"{out}-{world.rank % 2}")
    assert np.array_equal(record.samples, run.samples.numpy())
    assert record.facts["iterations"] == run.iterations
    first = half is None or half.rank == 0
    assert [k for k, *_ in watched] == [*range(run.iterations + 1)] * first
    assert all(shape == (2, 1, 3, 2) for _, shape, _ in watched)
    assert ("iteration 0" in capsys.readouterr().err) == first

    for k, answer in pd.iterate(mixture, pd.Chords(8), pd.DDIM(), steps=50, comm=comm):
        shown.append((k, answer))
    assert [k for k, _ in shown] == [*range(len(shown))]
    assert (len(shown) > 1) == (world.rank == 0)


@pytest.mark.parametrize(
    ("coarse", "name"),
    [(pd.Euler(), "euler"), (2, "ddim"), (pd.Coarse(steps=2), "ddim"), ("network", "ddim")],
    ids=["solver", "steps", "coarse", "network"],
)
def test_what_coarse_solves_are_made_of(mixture, coarse, name, tmp_path):
    coarse = mixture if coarse == "network" else coarse
    method = pd.Parareal(slices=4, tolerance=0)
    outputs = [pd.Files(tmp_path / "run")]
    done = pd.sample(mixture, method, coarse=coarse, outputs=outputs, **GIVEN)
    assert torch.equal(done.samples, pd.sample(mixture, pd.Sequential(), **GIVEN).samples)
    facts = pd.read_run(tmp_path / "run").facts
    assert facts["coarse_solver"] == name
    assert sum(facts["coarse_evaluations"]) == (8 if coarse in (2, pd.Coarse(steps=2)) else 4)


class Own(pd.Sequential):
    """A method of a third party."""

    name: ClassVar[str] = "own"


class OwnSolver(pd.DDIM):
    """A solver of a third party."""

    name: ClassVar[str] = "own_solver"


def test_a_method_and_a_solver_of_others_with_files_that_their_program_resumes(mixture, tmp_path):
    out = tmp_path / "run"
    done = pd.sample(mixture, Own(), OwnSolver(), outputs=[pd.Files(out)], **GIVEN)
    assert pd.read_run(out).facts["method"] == "own"
    assert main(["resume", str(out)]) == 2
    given = {**GIVEN, "outputs": [pd.Files(out, resume=True)]}
    assert torch.equal(pd.sample(mixture, Own(), OwnSolver(), **given).samples, done.samples)
    with pytest.raises(pd.InputError, match="`solver` is 'ddim', and was"):
        pd.sample(mixture, Own(), pd.DDIM(), **given)


# ---------------------------------------------------------------- in programs of other kinds


@pytest.mark.mpi(min_size=2)
def test_two_halves_of_a_program_sample_at_once_and_often(mixture):
    from mpi4py import MPI

    color = MPI.COMM_WORLD.rank % 2
    half = MPI.COMM_WORLD.Split(color)
    method = [pd.Parareal(slices=6, tolerance=0), pd.Window(5, tolerance=0)][color]
    for seed in range(3 + 2 * color):
        done = pd.sample(mixture, method, seed=seed, comm=half, gather=True, **GIVEN)
        alone = pd.sample(mixture, pd.Sequential(), seed=seed, comm=None, **GIVEN)
        assert torch.equal(done.samples, alone.samples)
    half.Free()
    assert MPI.COMM_WORLD.allreduce(1) == MPI.COMM_WORLD.size


def test_beside_a_thread_of_the_program_whose_process_is_left_as_it_was(world, mixture, tmp_path):
    """Threads, signals, environment, and all that torch can be told."""
    turns, over = [], threading.Event()
    thread = threading.Thread(target=lambda: [turns.append(1) for _ in iter(over.is_set, True)])
    thread.start()
    torch.set_num_threads(2)
    before = state_of_the_process()
    out = world.share(tmp_path)
    for number in range(2):
        outputs = [pd.Files(out / str(number)), lambda k, answer, change: None]
        pd.sample(mixture, pd.Window(5), comm=comm_of(world), outputs=outputs, **GIVEN)
        for k, _ in pd.iterate(mixture, pd.Chords(8), comm=comm_of(world), **GIVEN):
            if k == 2:
                break
    assert state_of_the_process() == before
    torch.set_num_threads(1)
    over.set()
    thread.join()
    assert turns


def state_of_the_process():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return (
        dict(os.environ), os.getcwd(), threading.active_count(),
        wakeup, os.sched_getaffinity(0), children(),
        [signal.getsignal(number) for number in signal.valid_signals()],
        torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_device(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.initial_seed(), torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
    )  # fmt: skip


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


CELLS = (
    "import pint_diffusion as pd",
    "network = pd.load_denoiser()",
    "run = pd.sample(network, pd.Window(4), steps=6, samples=2)\nrun",
    "shown = []",
    "for k, answer in pd.iterate(network, pd.Chords(2), steps=6):\n    shown.append(answer)",
    "answers = pd.iterate(network, pd.Chords(2), steps=6)\nnext(answers)",
    "k, answer = next(answers)\nanswers.close()",
)


def test_cells_of_a_notebook(capsys):
    there, before = {}, threading.active_count()
    for cell in CELLS:
        exec(compile(cell, "cell", "exec"), there)
        under_way = "next(answers)" in cell and "close" not in cell  # a thread watches over it
        assert threading.active_count() == before + under_way
    assert len(there["shown"]) == 3
    assert there["k"] == 1
    assert torch.equal(there["answer"], there["shown"][1])
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- answers, and an early end


@pytest.mark.parametrize("method", METHOD, ids=lambda method: method.name)
def test_answers_come_one_by_one_and_a_watcher_ends_the_run(world, mixture, method):
    given = {**GIVEN, "comm": comm_of(world)}
    whole = pd.sample(mixture, method, gather=True, **given)
    answers = list(pd.iterate(mixture, method, gather=True, **given))
    assert [k for k, _ in answers] == list(range(whole.iterations + 1))
    assert torch.equal(answers[-1][1], whole.samples)
    if world.rank == 0:
        assert all(torch.equal(x, whole.iterates[k]) for k, x in answers)
    ended = pd.sample(mixture, method, outputs=[lambda k, *_: k == 1], gather=True, **given)
    if whole.iterations > 1:
        assert (ended.iterations, ended.converged) == (1, False)
        assert torch.equal(ended.samples, answers[1][1])
        assert ended.stopped_at.shape == (3,)


@pytest.mark.parametrize(("left", "gather"), [(0, True), (2, False)])
@pytest.mark.parametrize("method", METHOD, ids=lambda method: method.name)
def test_leaving_the_loop_ends_the_run_on_every_rank(
    world, mixture, tmp_path, method, left, gather
):
    """That of rank 0 counts; another rank may leave its loop before, and works on."""
    out, seen = world.share(tmp_path / "run"), []
    given = {**GIVEN, "comm": comm_of(world), "gather": gather}
    whole = pd.sample(mixture, method, **given)
    for k, _ in pd.iterate(mixture, method, outputs=[pd.Files(out)], **given):
        seen.append(k)
        if k == left or world.rank == 1:
            break
    last = min(left, whole.iterations)
    turns = [0] if world.rank == 1 else list(range(last + 1))
    assert seen == (turns if gather or world.rank == 0 else [])
    facts = pd.read_run(out).facts
    assert facts["iterations"] == last
    assert facts["status"] == ("finished" if whole.iterations == 0 else "not converged")
    assert inspect_run(out).manifest.newest([]) == last
    done = pd.sample(mixture, method, outputs=[pd.Files(out, resume=True)], **given)
    assert done.converged
    assert done.samples is None or torch.equal(done.samples, whole.samples)


class Listener(pd.Output):
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def open(self, plan, world, events):
        self.told.append(("open", plan.method.name, world.size))

    def state(self, n, k, state):
        self.told.append(("state", n, k))

    def boundary(self, n, k):
        self.told.append(("boundary", n, k))

    def answer(self, k, answer, change):
        self.told.append(("answer", k))

    def close(self, ended):
        self.told.append(("close", ended.status))


def test_an_output_of_ones_own(world, mixture):
    listener = Listener()
    method = pd.Parareal(slices=8, tolerance=0)
    pd.sample(mixture, method, outputs=[listener], comm=comm_of(world), **GIVEN)
    told = listener.told
    assert told[0] == ("open", "parareal", world.size)
    assert told[-1] == ("close", "finished")
    mine = {n for n in range(9) if n % world.size == world.rank or (n == 8 and world.rank == 0)}
    mine -= {8} if world.rank else set()
    assert {(n, k) for kind, n, *k in told[1:-1] if kind == "state" for k in k} == {
        (n, k) for n in mine for k in range(n + 1)
    }
    if world.rank == 0:
        assert [k for kind, k, *_ in told if kind == "answer"] == list(range(9))
        assert ("boundary", 3, 3) in told


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"steps": 0}, "`steps` is 0"),
        ({"samples": 2.0}, "`samples` is 2.0"),
        ({"seed": -1}, "`seed` is -1"),
        ({"method": pd.Window}, "call it, Window()"),
        ({"solver": "ddim"}, "`solver` is 'ddim'"),
        ({"noise": torch.zeros(2, 5)}, "`noise` has shape (2, 5)"),
        ({"batching": "on"}, "`batching` is 'on'"),
        ({"dtype": "int8"}, "`dtype` is int8"),
        ({"dtype": torch.float32}, "but that of the network is float64"),
        ({"device": "nowhere"}, "`device` is 'nowhere'"),
        ({"outputs": [3]}, "`outputs` has 3"),
        ({"network": "ddim"}, "`network` is a str"),
        ({"coarse": "ddim"}, "`coarse` is a str"),
        ({"method": pd.Parareal(slices=17)}, "every slice needs at least one step"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_bad_arguments_are_input_errors_that_name_them(mixture, wrong, word):
    given = {"network": mixture, **GIVEN, **wrong}
    for call in (pd.sample, pd.iterate):
        if call is pd.iterate and "outputs" in wrong:
            continue
        with pytest.raises(pd.InputError) as error:
            call(**given)
        assert word in str(error.value)
        assert "\n" not in str(error.value)


def boom(*_):
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize("who", ["network", "watch", "open", "close"])
def test_what_fails_is_raised_on_every_rank_and_the_next_run_is_none_the_worse(world, who):
    """In one process what was raised itself; on several ranks the last one fails, or rank 0."""
    network, outputs = Contraction(), []
    fails = world.rank == (0 if who == "watch" else world.size - 1)
    if fails and who == "network":
        network = Contraction(act=boom)
    elif who == "watch":
        outputs = [boom]
    elif fails:
        outputs = [type("Broken", (pd.Output,), {who: boom})()]
    kind = (
        pd.RunFailed if world.size > 1 else (pd.PintError if who == "network" else ArithmeticError)
    )
    method = pd.Parareal(slices=world.size + 1, tolerance=0)
    with pytest.raises(kind, match="boom"):
        pd.sample(network, method, outputs=outputs, comm=comm_of(world), **GIVEN)
    assert pd.sample(Contraction(), method, comm=comm_of(world), **GIVEN).converged


class Stuck(Contraction):
    """Its third call returns when a file is there."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def __call__(self, x, t, alpha_bar):
        while self.calls == 2 and not self.file.exists():
            time.sleep(0.02)
        return super().__call__(x, t, alpha_bar)


METHODS_STUCK = {"parareal": FEW["parareal"], "window": pd.Window(8, tolerance=0)}


@pytest.mark.parametrize("method", METHODS_STUCK.values(), ids=METHODS_STUCK)
def test_a_call_that_does_not_end_is_raised_on_the_other_ranks_and_logged(
    world, method, caplog, tmp_path
):
    """On the rank itself it is raised once the call returns. The next run is none the worse."""
    given = {**GIVEN, "comm": comm_of(world), "call_limit": 0.25}
    threads, late = threading.active_count(), world.rank == world.size - 1
    go = world.share(tmp_path / "go")
    place = rf"rank {world.size - 1} on \S+: a network call at .*, step \d+ has taken more than"
    if world.size == 1:
        caplog.handler.addFilter(lambda record: go.touch() or True)
    with pytest.raises(pd.TransportError, match=place):
        pd.sample(Stuck(go) if late else Contraction(), method, **given)
    go.touch()
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(logged) == (world.rank == 0)
    assert all(re.search(place, one) for one in logged)
    world.barrier()
    assert pd.sample(Contraction(), method, **given | {"call_limit": None}).converged
    assert threading.active_count() == threads


@pytest.mark.parametrize("given", [{"call_limit": 0}, {"call_limit": "soon"}, {"watchdog": -1}])
def test_what_is_no_limit_is_refused_by_name(given):
    (name,) = given
    for call in (pd.sample, pd.iterate):
        with pytest.raises(pd.InputError, match=f"`{name}` is .* seconds above 0"):
            call(Contraction(), **GIVEN, **given)


class StopsAll(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("kind", [GeneratorExit, StopsAll, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("method", METHODS_STUCK.values(), ids=METHODS_STUCK)
def test_whatever_a_network_raises_is_told_on_every_rank(world, method, kind):
    def fails(calls, out):
        if calls == 3 and world.rank == world.size - 1:
            raise kind("enough")
        return out

    network, error = Contraction(fails), pd.RunFailed if world.size > 1 else pd.PintError
    with pytest.raises(error, match=r"the network failed at \w+ \d+,(?s:.*)enough"):
        pd.sample(network, method, comm=comm_of(world), **GIVEN)


@pytest.mark.mpi(min_size=2)
def test_ranks_that_are_given_different_things_are_refused(mixture):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    with pytest.raises(pd.InputError, match="has other settings"):
        pd.sample(mixture, pd.Window(4 if world.rank == 1 else 5), comm=world, **GIVEN)
    with pytest.raises(pd.InputError, match="`steps` is 0"):
        pd.sample(mixture, comm=world, samples=1, steps=0 if world.rank == 1 else 9)


def test_a_key_press_ends_a_run_and_leaves_nothing_behind(mixture, tmp_path):
    def press(k, answer, change):
        if k == 1:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        pd.sample(mixture, outputs=[pd.Files(tmp_path / "run"), press], **GIVEN)
    time.sleep(0)
    assert threading.active_count() == before
    assert not (tmp_path / "run" / "lock").exists()
    assert pd.sample(mixture, outputs=[pd.Files(tmp_path / "run", resume=True)], **GIVEN).converged


def test_a_world_can_be_this_process_alone_whoever_started_it(mixture):
    assert pd.sample(mixture, comm=None, **GIVEN).samples.shape == (3, 1, 3, 2)
