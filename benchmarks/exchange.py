"""What a round of a window costs beside its evaluations, for two ways of passing states on.

    mpiexec -n 8 python benchmarks/exchange.py

gather  every rank gets what every rank's network returned, and makes the whole sweep: one
        exchange. This is what the methods in rounds do.
chain   a rank makes the sweep's steps of its own points and hands the state on to the next rank;
        the last one tells all how far the window slides.

One point per rank. An evaluation is a sleep; a step of the sweep is x + (y - x) / 2. Figures are
milliseconds per round beyond the evaluation, the median of some rounds, the slowest rank's.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import torch

from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.output import Output
from pint_diffusion.runtime.calls import Calls
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.limits import Limits
from pint_diffusion.runtime.requests import Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.runtime.world import World, open_world

EVALUATION = 0.05
ROUNDS = 20
SIZES = (784, 3 * 64 * 64, 4 * 128 * 128, 1024 * 1024)


def step(x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Stand in for a solver's step."""
    return x + (seen - x) / 2


def gather(runtime: Runtime, ranks: range, layout: Layout, times: list[float]) -> None:
    """Give everything to all."""
    seen = runtime.cells(layout, lambda n: n, lambda n: list(ranks))

    async def rounds() -> None:
        x = torch.ones(layout.shape)
        for k in range(ROUNDS):
            begun = time.perf_counter()
            time.sleep(EVALUATION)
            seen[runtime.rank, k] = 0.5 * x
            swept = x
            for n in ranks:
                swept = step(swept, await seen[n, k])
            x = swept
            times.append(time.perf_counter() - begun)
        finish(runtime)

    runtime.spawn(runtime.rank, rounds)


def chain(runtime: Runtime, ranks: range, layout: Layout, times: list[float]) -> None:
    """Hand states on."""
    last = ranks[-1]
    passed = runtime.cells(layout, lambda n: n - 1, lambda n: [n])
    slide = runtime.cells(Layout((1,), torch.float64, layout.device), lambda n: last,
                          lambda n: list(ranks))  # fmt: skip

    async def rounds() -> None:
        x = torch.ones(layout.shape)
        for k in range(ROUNDS):
            begun = time.perf_counter()
            time.sleep(EVALUATION)
            seen = 0.5 * x
            swept = await passed[runtime.rank, k] if runtime.rank else x
            x = step(swept, seen)
            if runtime.rank < last:
                passed[runtime.rank + 1, k] = x
            else:
                slide[0, k] = torch.ones(1, dtype=torch.float64)
            await slide[0, k]
            times.append(time.perf_counter() - begun)
        finish(runtime)

    runtime.spawn(runtime.rank, rounds)


def finish(runtime: Runtime) -> None:
    """End the run."""
    if runtime.rank == 0:
        runtime.finish(Outcome(0, True, True, np.empty((0, 1)), np.zeros(1, np.int32)))


def measure(world: World, pattern, numbers: int) -> float:
    """Seconds of a round beyond the evaluation, on the slowest rank."""
    events = EventLog(world.rank)
    transport = world.transport(events, torch.device("cpu"), Limits(60.0))
    calls = Calls([], events, None)
    runtime = Runtime(world.rank, world.size, calls, transport, events, Output())
    times: list[float] = []
    layout = Layout((numbers,), torch.float32, torch.device("cpu"))
    world.barrier()
    pattern(runtime, range(world.size), layout, times)
    deque(runtime.run(), maxlen=0)
    runtime.close()
    world.barrier()
    return max(world.gather(float(np.median(times)))) - EVALUATION


def main() -> None:
    """Print a line for each size of a state."""
    torch.set_num_threads(1)
    world = open_world("mpi")
    for numbers in SIZES:
        found = {p.__name__: measure(world, p, numbers) for p in (gather, chain)}
        if world.rank == 0:
            told = ", ".join(f"{name} {1e3 * extra:7.2f} ms" for name, extra in found.items())
            print(f"{world.size} ranks, states of {4 * numbers / 1e3:8.1f} kB: {told}", flush=True)


if __name__ == "__main__":
    main()
