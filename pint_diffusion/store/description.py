"""What the master file says of a run, besides its arrays: what ran, where, and what it cost."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

import pint_diffusion
from pint_diffusion.build.plan import Plan
from pint_diffusion.run import Solution
from pint_diffusion.runtime.events import Tally
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers.linear import try_walk
from pint_diffusion.store.master import Master


def describe_run(settings: Settings, world: World, plan: Plan, threads: int, cores: int) -> Master:
    """Say what is run, and what runs where: the master file before the first iteration."""
    problem = plan.problem
    device = plan.evaluators[0].device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    here = world.host, f"{device} {name}".strip(), cores / world.local_size
    hosts, devices, cores_per_rank = zip(*world.gather(here), strict=True)
    facts: dict[str, Any] = {
        "status": "running",
        "config": settings.to_yaml(),
        "method": settings.method,
        "options": options_text(plan.method.options),
        "rounds": plan.method.rounds,
        "tolerance": problem.tolerance,
        "unit": plan.method.unit,
        "most": plan.method.most(problem.grid),
        "coarse_solver": problem.coarse.name,
        "summed_noise": problem.coarse.solver.stochastic,
        "fine_evaluations": try_walk(problem.fine, "fine"),
        "coarse_evaluations": try_walk(problem.coarse, "coarse"),
        "seed": settings.seed,
        "data_range": problem.stop_rule.data_range,
        "ranks": world.size,
        "threads": threads,
        "hosts": hosts,
        "devices": devices,
        "mpi_library": world.library,
        "versions": [
            f"pint-diffusion {pint_diffusion.__version__}",
            f"python {platform.python_version()}",
            f"torch {torch.__version__}",
            f"numpy {np.__version__}",
            f"h5py {h5py.__version__}",
        ],
    }
    if device.type == "cpu":
        facts["cores_per_rank"] = min(cores_per_rank)
    return Master(
        folder=settings.out,
        grid=problem.grid,
        history=problem.fine.history + plan.method.own,
        columns=problem.columns,
        state=tuple(problem.noise.shape),
        dtype=str(problem.noise.dtype).removeprefix("torch."),
        facts=facts,
    )


def options_text(options: Mapping[str, Any]) -> str:
    """Names and values of the options of a method that have a value."""
    shown = {name: value for name, value in options.items() if value not in (None, ())}
    return " ".join(f"{name} {value}" for name, value in shown.items())


def figures(
    solution: Solution, tallies: list[Tally], sequential: tuple[Tensor, float] | None
) -> dict[str, Any]:
    """Count and time a solved run, and keep the sequential answer if there is one."""
    calls = sum(tally.calls for tally in tallies)
    counted: dict[str, Any] = {
        "evaluations": sum(tally.evaluations for tally in tallies),
        "evaluations_wasted": sum(tally.wasted for tally in tallies),
        "evaluations_deep": solution.clock.deep,
        "calls_deep": solution.clock.calls,
        "network_calls": calls,
        "evaluation_time": sum(tally.evaluating for tally in tallies) / max(calls, 1),
        "wall_time": solution.wall_time,
    }
    if sequential is not None:
        answer, seconds = sequential
        counted |= {"sequential": answer.cpu().numpy(), "sequential_wall_time": seconds}
    return counted
