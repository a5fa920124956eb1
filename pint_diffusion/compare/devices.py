"""What runs would take on P devices: with a measured cost of batches, no messages, and P as given.

"Evaluations deep" takes a call with many rows to cost as much as one with few. On P devices the
evaluations of a round are shared out, and a device makes one call of its share.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np


def cost_of(costs: Mapping[int, float], evaluations: int) -> float:
    """Seconds of a call with so many evaluations, linear between those measured and beyond."""
    sizes = sorted(costs)
    seconds = [costs[size] for size in sizes]
    if evaluations <= sizes[-1] or len(sizes) == 1:
        return float(np.interp(evaluations, sizes, seconds))
    return seconds[-1] * evaluations / sizes[-1]


def rounds_on(per_round: Sequence[int], devices: int, costs: Mapping[int, float]) -> float:
    """Seconds of rounds that follow one another, each of so many evaluations."""
    return sum(cost_of(costs, ceil(count / devices)) for count in per_round if count)


def chords_on(
    starts: Sequence[int], steps: int, k: int, devices: int, costs: Mapping[int, float]
) -> float:
    """Seconds until result k of cores that start at these points and step together."""
    core = len(starts) - k
    ticks = core + steps - (*starts, steps)[core]
    active = [
        sum(c <= tick < c + steps - start for c, start in enumerate(starts))
        for tick in range(ticks)
    ]
    return rounds_on(active, devices, costs)


def parareal_on(steps: Sequence[int], k: int, devices: int, costs: Mapping[int, float]) -> float:
    """Seconds until u_M^k, slices being dealt out in turn and G sharing F's first evaluation.

    Every device makes one call after another, each of all evaluations that are ready.

    Parameters
    ----------
    steps : sequence of int, length M
        Evaluations of a fine solve of each slice.
    k : int
        Iterations.
    devices : int
        P.
    costs : mapping
        Evaluations in a call -> seconds.
    """
    slices = len(steps)
    ready: list[list[tuple[int, int, int]]] = [[] for _ in range(devices)]
    busy, arrived = [False] * devices, {}
    events: list[tuple[float, int, list[tuple[int, int, int]]]] = []
    coarse: dict[tuple[int, int], float] = {}
    fine: dict[tuple[int, int], float] = {}

    def offer(n: int, j: int, now: float) -> None:
        """u_n^j is there."""
        arrived[n, j] = now
        if n < slices and (j < k or n >= j) and j <= n:
            ready[n % devices].append((j, n, 0))

    def settle(now: float) -> None:
        for n in range(slices):
            for j in range(min(n + 1, k) + 1):
                if (n + 1, j) in arrived:
                    continue
                made = (n, 0) in coarse if j == 0 else (n, j - 1) in fine
                if j and j <= n:
                    made = made and (n, j) in coarse
                if made:
                    offer(n + 1, j, now)

    now = 0.0
    offer(0, 0, now)
    while (slices, min(k, slices)) not in arrived:
        for device in range(devices):
            if not busy[device] and ready[device]:
                batch, ready[device] = ready[device], []
                busy[device] = True
                heapq.heappush(events, (now + cost_of(costs, len(batch)), device, batch))
        now, device, batch = heapq.heappop(events)
        busy[device] = False
        for j, n, done in batch:
            if done == 0:
                coarse[n, j] = now
            if done + 1 == steps[n]:
                fine[n, j] = now
            elif j < k:
                ready[device].append((j, n, done + 1))
        settle(now)
    return now
