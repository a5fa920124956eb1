"""What the master file says of a run, besides its arrays: what ran, where, and what it cost."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import pint_diffusion
from pint_diffusion.build.plan import Plan
from pint_diffusion.options import FREE, Options
from pint_diffusion.result import Run
from pint_diffusion.runtime.device import precision
from pint_diffusion.runtime.world import World
from pint_diffusion.solvers.linear import try_walk
from pint_diffusion.store.master import Master

ELSEWHERE = ("slices", "bounds", "slicing", "tolerance")
"""Options of methods that the files and the summary tell in another place."""


def describe_run(plan: Plan, world: World, folder: Path, config: str) -> Master:
    """Say what is run, and what runs where: the master file before the first iteration."""
    problem, cores = plan.problem, world.host_cores()
    device = plan.evaluators[0].device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    here = world.host, f"{device} {name}".strip(), cores / world.local_size
    hosts, devices, cores_per_rank = zip(*world.gather(here), strict=True)
    facts: dict[str, Any] = {
        "status": "running",
        "config": config,
        "method": plan.method.name,
        "solver": plan.asked.solver.name,
        "solver_options": options_text(plan.asked.solver),
        "options": options_text(plan.method),
        "counts": plan.method.counts,
        "column": plan.method.column,
        "retires": plan.method.retires,
        "iterates": plan.method.iterates,
        "uses_coarse": plan.method.uses_coarse,
        "tolerance": problem.tolerance,
        "tolerance_unit": plan.method.unit,
        "enough_iterations": plan.method.enough_iterations(problem.grid),
        "coarse_solver": problem.coarse.name,
        "summed_noise": problem.coarse.solver.stochastic,
        "fine_evaluations": try_walk(problem.fine, "fine"),
        "coarse_evaluations": try_walk(problem.coarse, "coarse"),
        "seed": plan.asked.seed,
        "data_range": problem.stop_rule.data_range,
        "ranks": world.size,
        "threads": torch.get_num_threads(),
        "precision": precision(),
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
        folder=folder,
        grid=problem.grid,
        history=problem.fine.history + plan.method.extra_tensors,
        columns=problem.columns,
        state=tuple(problem.noise.shape),
        dtype=str(problem.noise.dtype).removeprefix("torch."),
        facts=facts,
    )


def options_text(of: Options) -> str:
    """Return names and values of the options that decide what a method or a solver computes."""
    free = {n for n, field in type(of).model_fields.items() if field.json_schema_extra == FREE}
    values = {name: getattr(of, name) for name in of.stated() if name not in {*ELSEWHERE, *free}}
    return " ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ()))


def figures(run: Run) -> dict[str, Any]:
    """Return the counts and times of a run as attributes."""
    outcome = run.outcome
    names = (
        *("evaluations", "evaluations_wasted", "evaluations_deep", "calls_deep"),
        *("network_calls", "evaluation_time", "wall_time", "sequential_wall_time"),
        "start_up_time",
    )
    counted = {name: getattr(run, name) for name in names if getattr(run, name) is not None}
    return counted | {
        "iterations": outcome.iterations,
        "converged": outcome.converged,
        "exact": outcome.exact,
    }
