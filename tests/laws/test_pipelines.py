"""A diffusers pipeline's loop, body by body in any order, is the pipeline to the bit."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("greenlet")

from helpers.conformance import (  # noqa: E402
    FLOWS,
    VARIANTS,
    generator,
    of_scheduler,
    outputs,
    same,
    seeded,
    shuffled,
    untouched,
    walked,
)
from helpers.pipelines import FAMILIES, Remembering, made, scheduler  # noqa: E402

from pint_diffusion.errors import InputError  # noqa: E402
from pint_diffusion.pipelines.loop import PipelineLoop  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SCHEDULERS = (
    "DDPMScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
)
"""Of each kind of scheduler one; `make pipelines` tries all."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compared(pipe, call):
    first, second = generator(), generator()
    wanted, global_after = untouched(pipe, call, first)
    before = {name: dict(one.__dict__) for name, one in components(pipe) if name == "scheduler"}
    own, config = dict(pipe.__dict__), copy.deepcopy(dict(pipe.config))
    found, ours_after = shuffled(pipe, call, second)
    assert same(wanted, found)
    assert torch.equal(first.get_state(), second.get_state())
    assert torch.equal(global_after, ours_after)
    assert {name: dict(one.__dict__) for name, one in components(pipe) if name in before} == before
    assert pipe.__dict__ == own
    assert dict(pipe.config) == config


def components(pipe):
    return pipe.components.items()


@pytest.mark.parametrize("name", FAMILIES)
def test_bodies_in_any_order_are_the_pipeline(name):
    compared(*made(name))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_bodies_in_any_order_are_the_pipeline_with_any_scheduler(name):
    compared(*of_scheduler(name))


@pytest.mark.parametrize("name", ["DPM++ 2M SDE", "UniPC 3", "PNDM without Runge-Kutta steps"])
def test_options_of_schedulers_change_nothing(name):
    kind, options = VARIANTS[name]
    compared(*of_scheduler(kind, **options))


def test_flow_schedulers_are_classes_of_diffusers():
    assert all(hasattr(diffusers, name) for name in FLOWS)


def test_a_list_of_generators_ends_where_the_pipeline_leaves_it():
    pipe, call = made("ddpm")
    first, second = ([generator(1), generator(2)] for _ in range(2))
    wanted, _ = untouched(pipe, call, first)
    found, _ = shuffled(pipe, call, second)
    assert same(wanted, found)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.get_state(), other.get_state())


def test_without_a_generator_the_global_one_counts():
    pipe, call = made("ddpm")
    wanted, after = untouched(pipe, call, None)
    found, ours = shuffled(pipe, call, None)
    assert same(wanted, found)
    assert torch.equal(after, ours)


def test_the_global_generator_is_the_programs_own_until_the_end():
    pipe, call = made("ddpm")
    with seeded():
        before = torch.get_rng_state()
        with PipelineLoop(pipe, **call) as loop:
            walked(loop)
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "calls", "extra"), [("sd", 1, 0), ("sd_controlnet", 2, 0), ("wan", 2, 0)]
)
def test_the_dry_walk_evaluates_body_0_alone(name, calls, extra):
    pipe, call = made(name)
    with PipelineLoop(pipe, **call) as loop:
        assert loop.steps == call["num_inference_steps"]
        assert (loop.evaluations, loop.extra) == (calls, extra)
        assert [len(body.networks) for body in loop.bodies] == [calls] * loop.steps


def test_a_body_says_which_expert_it_calls():
    pipe, call = made("wan_two_experts")
    with PipelineLoop(pipe, **call) as loop:
        called = [set(body.networks) for body in loop.bodies]
        assert called == [{"transformer"}] * 2 + [{"transformer_2"}] * 3
        assert loop.extra == 1  # of the second expert's outputs only the shape was asked


@pytest.mark.parametrize("name", ["sd", "sd3_skip_layers", "cogvideox_dpm", "ltx2_video_and_sound"])
def test_steps_are_made_again_of_what_the_networks_have_said(name):
    pipe, call = made(name)
    with PipelineLoop(pipe, **call) as loop:
        states, said = [loop.first], []
        for i in range(1, loop.steps):
            states.append(loop.body(i, states[-1]))
            said.append([seen.model_output for seen in loop.seen])
        calls = loop.evaluations
        for i in reversed(range(1, loop.steps)):
            again = loop.replay(i, states[i - 1], said[i - 1])
            assert same(again.tensors, states[i].tensors)
        assert loop.evaluations == calls


def test_a_state_is_tensors_and_its_form_is_known_elsewhere():
    pipe, call = of_scheduler("UniPCMultistepScheduler")
    with PipelineLoop(pipe, **call, generator=generator()) as here:
        states = walked(here)
    with PipelineLoop(pipe, **call, generator=generator()) as there:
        for i in range(1, there.steps):
            sent = there.bodies[i - 1].after.holding(states[i - 1].tensors)
            assert same(there.body(i, sent).tensors, states[i].tensors)


def test_networks_are_called_as_modules_so_that_hooks_act():
    pipe, call = made("sd")
    called = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, _: called.append(module))
    try:
        with PipelineLoop(pipe, **call) as loop:
            loop.body(1, loop.first)
            assert called == [pipe.unet] * 2
    finally:
        hook.remove()


def test_what_is_kept_beside_the_state_is_found_out():
    pipe = Remembering(**made("ddpm")[0].components)
    with PipelineLoop(pipe) as loop:
        assert loop.differing() == 2
    pipe, call = made("ddpm")
    with PipelineLoop(pipe, **call) as loop:
        assert loop.differing() is None


class Nested(Remembering):
    @torch.no_grad()
    def __call__(self, generator=None, num_inference_steps=5):
        x = torch.randn((1, 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for _ in range(2):
            for t in self.progress_bar(self.scheduler.timesteps):
                x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample
        return (x,)


class WithoutWalk(Remembering):
    @torch.no_grad()
    def __call__(self, generator=None, num_inference_steps=5):
        x = torch.randn((1, 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for at in range(num_inference_steps):
            t = self.scheduler.timesteps[at]
            x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample
        return (x,)


class Brownian(diffusers.DDPMScheduler):
    """A scheduler that makes an object at its first step, as those with a Brownian tree do."""

    def step(self, *args, **kwargs):
        self.tree = object()
        return super().step(*args, **kwargs)


def cached():
    pipe, call = made("flux")
    pipe = copy.copy(pipe)
    pipe.__dict__ = {**pipe.__dict__, "transformer": copy.deepcopy(pipe.transformer)}
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    return pipe, call


def guided():
    pipe, call = made("hunyuan_video_guider")
    guider = diffusers.AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=0.5)
    return type(pipe)(**{**pipe.components, "guider": guider}), call


REFUSED = {
    "no pipeline": (lambda: (torch.nn.Identity(), {}), "no pipeline of diffusers"),
    "cache": (cached, "keeps a cache from step to step"),
    "momentum": (guided, "has a momentum from step to step"),
    "two walks": (lambda: (Nested(**made("ddpm")[0].components), {}), "inside another loop"),
    "no walk": (lambda: (WithoutWalk(**made("ddpm")[0].components), {}), "has no loop over"),
    "an object": (
        lambda: (diffusers.DDPMPipeline(made("ddpm")[0].unet, Brownian()), made("ddpm")[1]),
        "`tree` is no state that can be copied",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_such_loop_is_refused_in_a_sentence(name):
    make, why = REFUSED[name]
    pipe, call = make()
    with pytest.raises(InputError, match=why) as refused:
        PipelineLoop(pipe, **call)
    assert refused.value.field == "pipe"
    assert "\n" not in str(refused.value)


def test_what_a_pipeline_raises_comes_out_as_it_is():
    pipe, call = made("sd")
    with pytest.raises(ValueError, match="divisible by 8"):
        PipelineLoop(pipe, **{**call, "height": 17})


def test_a_loop_that_is_left_ends_the_call():
    pipe, call = made("sd")
    freed = []
    pipe = copy.copy(pipe)
    pipe.__dict__ = {**pipe.__dict__, "maybe_free_model_hooks": lambda: freed.append(True)}
    with PipelineLoop(pipe, **call) as loop:
        loop.body(1, loop.first)
    assert freed == [True]
    assert outputs(pipe(**call))  # the user's pipeline runs as before


def test_a_scheduler_of_one_call_is_no_other_calls():
    """The scheduler may be exchanged between two calls."""
    pipe, call = made("sd")
    for kind in ("DDIMScheduler", "UniPCMultistepScheduler"):
        other = type(pipe)(**{**pipe.components, "scheduler": scheduler(kind)})
        compared(other, call)
