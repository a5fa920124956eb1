"""A pipeline in parallel is the pipeline, to the bit with tolerance 0; on one rank and on four."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("diffusers")
pytest.importorskip("greenlet")

import diffusers
from helpers.conformance import (
    METHODS,
    generator,
    in_parallel,
    of_scheduler,
    outputs,
    same,
    seeded,
    untouched,
)
from helpers.launch import launch
from helpers.pipelines import Remembering, made

import pint_diffusion as pd

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CASES = ("sd_inpaint", "flux_bfloat16", "wan_two_experts")
SCHEDULED = ("UniPCMultistepScheduler", "HeunDiscreteScheduler", "DDPMScheduler")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES + SCHEDULED)
def test_with_tolerance_0_it_is_the_pipeline(name, method):
    pipe, call = made(name) if name in CASES else of_scheduler(name)
    first, second = generator(), generator()
    wanted, global_after = untouched(pipe, call, first)
    given = pipe, call, second, METHODS[method], 0
    if method == "paradigms" and name in SCHEDULED[:2]:
        with pytest.raises(pd.InputError, match="carries a history"):
            in_parallel(*given, comm=None)
        return
    found, ours_after = in_parallel(*given, comm=None)
    assert same(wanted, found)
    assert torch.equal(first.get_state(), second.get_state())
    assert torch.equal(global_after, ours_after)


@pytest.mark.parametrize("method", ["parareal", "window"])
@pytest.mark.parametrize("name", ["flux", "EulerDiscreteScheduler"])
def test_the_tolerance_is_about_the_error_and_saves_turns(name, method):
    pipe, call = of_scheduler(name) if name.endswith("Scheduler") else made(name)
    call = {**call, "num_inference_steps": 12}
    wanted, _ = untouched(pipe, call, generator())
    fast = pd.parallelize(pipe, method=METHODS[method], tolerance=1e-3, comm=None, verify=True)
    with seeded():
        found = outputs(fast(**call, generator=generator()))
    assert 0 < (found[0] - wanted[0]).abs().max() < 2e-3
    assert fast.report.error < 2e-3
    assert fast.report.bodies_deep < fast.report.steps == 12
    assert fast.report.predicted_speedup > 1
    assert fast.report.speedup is not None


def test_no_generator_means_the_global_one_and_calls_follow_one_another():
    pipe, call = made("ddpm")
    fast = pd.parallelize(pipe, method=pd.Window(tolerance=0), comm=None)
    with seeded():
        wanted = [outputs(pipe(**call)) for _ in range(2)]
        after = torch.get_rng_state()
    with seeded():
        found = [outputs(fast(**call)) for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), after)
    assert same(wanted[0], found[0])
    assert same(wanted[1], found[1])
    assert not same(found[0], found[1])


def test_other_arguments_and_schedulers_between_calls():
    pipe, call = made("sd")
    pipe = type(pipe)(**pipe.components, requires_safety_checker=False)
    fast = pd.parallelize(pipe, tolerance=0, comm=None)
    for name, steps in (("EulerDiscreteScheduler", 3), ("DPMSolverMultistepScheduler", 6)):
        pipe.scheduler = of_scheduler(name)[0].scheduler
        given = {**call, "num_inference_steps": steps, "num_images_per_prompt": steps - 2}
        wanted, _ = untouched(pipe, given, generator())
        with seeded():
            assert same(wanted, outputs(fast(**given, generator=generator())))
        assert fast.report.steps == steps


@pytest.mark.parametrize("steps", [1, 2])
def test_a_walk_of_one_or_two_turns_is_made_as_it_is(steps):
    pipe, call = of_scheduler("EulerDiscreteScheduler")
    call = {**call, "num_inference_steps": steps}
    wanted, _ = untouched(pipe, call, generator())
    found, _ = in_parallel(pipe, call, generator(), pd.Parareal(), 0, comm=None)
    assert same(wanted, found)


def test_what_is_kept_beside_the_state_is_refused_where_it_is_looked_for():
    pipe = Remembering(**made("ddpm")[0].components)
    with pytest.raises(pd.InputError, match="step 2 is another one after a jump"):
        pd.parallelize(pipe, comm=None, verify="first")()


def test_a_scheduler_that_counts_its_steps_can_not_begin_a_slice():
    pipe, call = of_scheduler("PNDMScheduler")
    with pytest.raises(pd.InputError, match="can begin at 0 of 13 steps only"):
        pd.parallelize(pipe, method=pd.Parareal(slices=4), comm=None)(**call)
    wanted, _ = untouched(pipe, call, generator())
    found, _ = in_parallel(pipe, call, generator(), pd.Window(), 0, comm=None)
    assert same(wanted, found)


@pytest.mark.parametrize(
    ("options", "more", "why"),
    [
        ({"method": "window"}, {}, "is no Method"),
        ({"result": "some"}, {}, "must be 'all' or 'root'"),
        ({}, {"callback_on_step_end": print}, "is called after each step"),
        ({"method": pd.Parareal(slices=9)}, {}, "`slices`"),
    ],
)
def test_what_can_not_be_used_is_refused_in_a_sentence(options, more, why):
    pipe, call = made("sd")
    with pytest.raises(pd.InputError, match=why) as refused:
        pd.parallelize(pipe, comm=None, **options)(**call, **more)
    assert "\n" not in str(refused.value)


def test_the_small_pipeline_draws_its_own_picture_of_a_prompt(tmp_path):
    script = runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "small_pipeline.py"))
    script["pipeline"]().save_pretrained(tmp_path)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    call = {"prompt": "a lighthouse", "num_inference_steps": 4, "output_type": "np"}
    wanted, _ = untouched(pipe, call, generator())
    found, _ = in_parallel(pipe, call, generator(), pd.Window(), 0, comm=None)
    assert same(wanted, found)


FOUR = """
import torch
from mpi4py import MPI

from helpers.conformance import *
import pint_diffusion as pd

torch.set_num_threads(1)
rank = MPI.COMM_WORLD.rank
for name in ("sd3_skip_layers", "ltx2_video_and_sound", "DPMSolverMultistepScheduler"):
    pipe, call = made(name) if name in FAMILIES else of_scheduler(name)
    wanted, _ = untouched(pipe, call, generator())
    for method in ("sequential", "parareal", "window", "piadm"):
        given = generator()
        found, _ = in_parallel(pipe, call, given, METHODS[method], 0)
        assert same(wanted, found), (name, method, rank)

fast = pd.parallelize(pipe, result="root")
end = fast(**call, generator=given)
assert (end is None) == (rank > 0)
states = MPI.COMM_WORLD.allgather(given.get_state())
assert all(torch.equal(states[0], one) for one in states), "generators differ"

torch.manual_seed(rank)  # that of rank 0 counts
found = outputs(pd.parallelize(pipe, method=pd.Window(tolerance=0))(**call))
assert all(same(found, other) for other in MPI.COMM_WORLD.allgather(found))

if rank == 2:
    with torch.no_grad():
        next(pipe.unet.parameters()).mul_(1.5)
try:
    fast(**call, generator=generator())
except pd.InputError as error:
    print(f"REFUSED {error}")
"""


@pytest.mark.timeout(300)  # four imports of diffusers, on a machine that may be busy
def test_four_ranks_end_with_the_pipelines_bits(tmp_path):
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = launch(program=["-c", FOUR], ranks=4, cwd=tmp_path, environment=paths, timeout=280)
    assert ended.code == 0, ended.err
    said = ended.out.split("REFUSED ")[1:]  # a launcher may put words of two ranks on one line
    assert len(said) == 4
    assert all("rank 2 on " in one and "has other weights" in one for one in said)
