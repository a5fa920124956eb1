"""Pipelines and schedulers, held against the untouched pipeline: bodies in any order, all methods.

python -m helpers.conformance    (from tests/) walks them all and writes the table of
docs/pipelines.md; under mpiexec the methods run on all ranks
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

import pint_diffusion as pd
from helpers.pipelines import FAMILIES, made, scheduler
from pint_diffusion.errors import InputError
from pint_diffusion.pipelines.loop import PipelineLoop
from pint_diffusion.runtime.world import World, open_world

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
BEGIN, END = "<!-- the suite writes from here -->\n", "<!-- to here -->\n"

DRIVEN_ELSEWHERE = {
    "CogVideoXDPMScheduler": "cogvideox_dpm",
}
"""Schedulers that no pipeline of Stable Diffusion can drive, and the family that does."""

FLOWS = (
    "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
    "MiniMaxH3Scheduler",
)
"""Schedulers for flow matching: they run in Stable Diffusion 3."""

OPTIONS = {"UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"}}
"""Options that a scheduler can't be without."""

STEPS = {"SCMScheduler": 2}
"""Numbers of steps that a scheduler is made for."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M, Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "DDPM, thresholds": ("DDPMScheduler", {"thresholding": True}),
    "PNDM without Runge-Kutta steps": ("PNDMScheduler", {"skip_prk_steps": True}),
    "Euler, v-prediction": ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
    "Heun, Karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    "DDIM, leading, with clipping": ("DDIMScheduler", {"clip_sample": True}),
}
"""Name -> class of a scheduler and options."""


def schedulers() -> list[str]:
    """Return the names of all scheduler classes of diffusers that make steps."""
    kinds = {
        name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")
    }
    usable = (name for name, kind in kinds.items() if "dummy" not in kind.__module__)
    return sorted(name for name in usable if hasattr(kinds[name], "step"))


def outputs(ended: Any) -> list[Tensor]:
    """Return the arrays of what a pipeline has returned."""
    found = list(ended.values()) if isinstance(ended, dict) else list(ended)
    return [torch.as_tensor(one) for one in found if isinstance(one, Tensor | np.ndarray)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@contextmanager
def seeded() -> Iterator[None]:
    """Begin with global generators of one seed, and leave them as they were."""
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        yield


def untouched(pipe: Any, call: dict[str, Any], given: Any) -> tuple[list[Tensor], Tensor]:
    """Run the pipeline itself; return what it returns, and the global generator's state then."""
    with seeded():
        found = outputs(pipe(**call, generator=given))
        return found, torch.get_rng_state()


def walked(loop: PipelineLoop) -> list[Any]:
    """Run all bodies in order; return the states."""
    states = [loop.first]
    for i in range(1, loop.steps):
        states.append(loop.body(i, states[-1]))
    return states


def shuffled(pipe: Any, call: dict[str, Any], given: Any) -> tuple[list[Tensor], Tensor]:
    """Run the bodies in order and then in another order, and end with the states of the second."""
    with seeded():
        with PipelineLoop(pipe, **call, generator=given) as loop:
            states = walked(loop)
            order = list(range(1, loop.steps))
            random.Random(0).shuffle(order)
            again = {i: loop.body(i, states[i - 1]) for i in order}
            for i, state in again.items():
                assert same(state.tensors, states[i].tensors), f"body {i} differs after a jump"
            found = outputs(loop.finish(again.get(loop.steps - 1, states[-1])))
        return found, torch.get_rng_state()


METHODS = {
    "sequential": pd.Sequential(),
    "parareal": pd.Parareal(slices=4),
    "window": pd.Window(window=4),
    "paradigms": pd.ParaDiGMS(window=4),
    "piadm": pd.PIADM(slices=2),
}


def in_parallel(
    pipe: Any, call: dict[str, Any], given: Any, method: Any, tolerance: float, **more: Any
) -> tuple[list[Tensor], Tensor]:
    """Run a pipeline in parallel; return as `untouched` does."""
    with seeded():
        fast = pd.parallelize(pipe, method=method, tolerance=tolerance, **more)
        found = outputs(fast(**call, generator=given))
        return found, torch.get_rng_state()


def verdict(pipe: Any, call: dict[str, Any]) -> str:
    """Say how a pipeline's bodies in any order compare with the untouched pipeline."""
    try:
        wanted, _ = untouched(pipe, call, generator())
    except Exception as error:
        return f"does not run by itself: {type(error).__name__}"
    try:
        found, _ = shuffled(pipe, call, generator())
    except InputError as error:
        return f"refused: {str(error).partition('in parallel: ')[2]}"
    except AssertionError as error:
        return f"differs: {error}"
    return "equal" if same(wanted, found) else "differs"


def of_methods(pipe: Any, call: dict[str, Any], world: World) -> str:
    """Say how the methods at tolerance 0 compare with the untouched pipeline, on all ranks."""
    call = {**call, "num_inference_steps": max(call["num_inference_steps"], world.size + 1)}
    wanted, _ = untouched(pipe, call, generator())
    said: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        try:
            found, _ = in_parallel(pipe, call, generator(), method, 0)
            mine = "equal" if same(wanted, found) else "differs"
        except InputError as error:
            why = "carries a history" in str(error) or "can begin at" in str(error)
            mine = "refused, history" if why else f"refused: {error}"
        every = world.gather(mine)
        said.setdefault(next((one for one in every if one != "equal"), "equal"), []).append(name)
    if list(said) == ["equal"]:
        return f"all {len(METHODS)} equal"
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in said.items())


def of_scheduler(name: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    """Return a pipeline with a scheduler, and its call."""
    if name in DRIVEN_ELSEWHERE:
        return made(DRIVEN_ELSEWHERE[name])
    pipe, call = made("sd3_skip_layers" if name in FLOWS else "sd")
    call = {**call, "num_inference_steps": STEPS.get(name, call["num_inference_steps"])}
    steps = scheduler(name, **OPTIONS.get(name, {}), **more)
    return type(pipe)(**{**pipe.components, "scheduler": steps}), call


def cases() -> Iterator[tuple[str, str, Callable[[], tuple[Any, dict[str, Any]]]]]:
    """Yield what it is, a title, and a function that makes pipeline and call."""
    for name in FAMILIES:
        kind = type(made(name)[0]).__name__
        yield "pipeline", f"{kind} ({name.replace('_', ' ')})", partial(made, name)
    for name in schedulers():
        yield "scheduler", name, partial(of_scheduler, name)
    for title, (name, more) in VARIANTS.items():
        yield "scheduler", title, partial(of_scheduler, name, **more)


def table(world: World) -> str:
    """Walk everything; return the tables and the counts."""
    rows: dict[str, list[tuple[str, str, str]]] = {"pipeline": [], "scheduler": []}
    for what, title, make in cases():
        try:
            pipe, call = make()
        except Exception as error:
            said = f"does not run by itself: {type(error).__name__}"
        else:
            said = verdict(pipe, call)
        methods = of_methods(pipe, call, world) if said == "equal" else ""
        rows[what].append((title, said, methods))
        if world.rank == 0:
            print(title, said, methods, sep=" | ", flush=True)
    ranks = f"{world.size} rank{'s' if world.size > 1 else ''}"
    text = f"diffusers {diffusers.__version__}, torch {torch.__version__}, on a CPU.\n\n"
    for what, lines in rows.items():
        equal = sum(said == "equal" for _, said, _ in lines)
        refused = sum(said.startswith("refused") for _, said, _ in lines)
        alone = sum(said.startswith("does not") for _, said, _ in lines)
        rest = len(lines) - equal - refused - alone
        text += f"{len(lines)} {what}s: {equal} equal, {refused} refused, {rest} differ; "
        text += f"{alone} do not run by themselves with these arguments.\n\n"
        text += (
            f"| {what} | bodies in any order | methods at tolerance 0, {ranks} |\n|---|---|---|\n"
        )
        text += "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
    return text


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = open_world("auto")
    written = table(here)
    if here.rank == 0:
        page = PAGE.read_text() if PAGE.exists() else f"{BEGIN}{END}"
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text(before + written + after)
