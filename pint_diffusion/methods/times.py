"""Seconds of a run on P devices, by a measured cost of batches and without messages.

"Evaluations deep" assumes that a call with many rows costs as much as one with few. Here P devices
share the evaluations of a round, and each device makes one call with its share.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np


def cost_of(costs: Mapping[int, float], evaluations: int) -> float:
    """Return the seconds of a call with so many evaluations.

    They are linear between the measured sizes, and proportional beyond the largest.
    """
    sizes = sorted(costs)
    seconds = [costs[size] for size in sizes]
    if evaluations <= sizes[-1] or len(sizes) == 1:
        return float(np.interp(evaluations, sizes, seconds))
    return seconds[-1] * evaluations / sizes[-1]


def rounds_on(in_a_row: Sequence[int], devices: int, costs: Mapping[int, float]) -> float:
    """Return the seconds of sets of evaluations that follow one another."""
    return sum(cost_of(costs, ceil(count / devices)) for count in in_a_row if count)


def chords_on(
    starts: Sequence[int], steps: int, k: int, devices: int, costs: Mapping[int, float]
) -> float:
    """Return the seconds until result k of CHORDS, whose cores start at ``starts``."""
    core = len(starts) - k
    ticks = core + steps - (*starts, steps)[core]
    active = [
        sum(c <= tick < c + steps - start for c, start in enumerate(starts))
        for tick in range(ticks)
    ]
    return rounds_on(active, devices, costs)


def parareal_on(
    fine: Sequence[int],
    coarse: Sequence[int],
    shared: bool,
    k: int,
    devices: int,
    costs: Mapping[int, float],
) -> float:
    """Return the seconds until u_M^k of Parareal.

    The devices take slices in turn, with their coarse solves. Every device makes one call after
    another, each with all evaluations that are ready.

    Parameters
    ----------
    fine, coarse : sequence of int, length M
        Evaluations of a fine and of a coarse solve of each slice.
    shared : bool
        The evaluation of a coarse solve is also the first one of the fine solve.
    k : int
        Number of iterations.
    devices : int
        Number P of devices.
    costs : mapping of int to float
        Number of evaluations in a call -> seconds of the call.
    """
    slices = len(fine)
    k, devices = min(k, slices), min(devices, slices)
    ready: list[list[tuple[int, int, str, int]]] = [[] for _ in range(devices)]
    busy: list[bool] = [False] * devices
    arrived: set[tuple[int, int]] = set()
    solved: set[tuple[str, int, int]] = set()
    events: list[tuple[float, int, list[tuple[int, int, str, int]]]] = []

    def offer(n: int, j: int) -> None:
        """Record that u_n^j has arrived, and offer the solves that it allows."""
        arrived.add((n, j))
        if n < slices and j <= n:
            wanted = ["coarse"] if j == k else ["shared"] if shared else ["coarse", "fine"]
            ready[n % devices].extend((j, n, kind, 1) for kind in wanted)

    def settle() -> None:
        for n in range(slices):
            for j in range(min(n + 1, k) + 1):
                needed = {("fine", n, j - 1)} if j else set()
                needed |= {("coarse", n, j)} if j <= n else set()
                if (n + 1, j) not in arrived and needed <= solved:
                    offer(n + 1, j)

    now = 0.0
    offer(0, 0)
    while (slices, k) not in arrived:
        for device in range(devices):
            if not busy[device] and ready[device]:
                batch, ready[device] = ready[device], []
                busy[device] = True
                heapq.heappush(events, (now + cost_of(costs, len(batch)), device, batch))
        now, device, batch = heapq.heappop(events)
        busy[device] = False
        for j, n, kind, made in batch:
            if kind == "shared":
                solved.add(("coarse", n, j))
                kind = "fine"
            if made == (fine if kind == "fine" else coarse)[n]:
                solved.add((kind, n, j))
            else:
                ready[device].append((j, n, kind, made + 1))
        settle()
    return now
