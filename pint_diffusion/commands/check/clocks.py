"""Clocks: how far the clocks of the hosts are apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.runtime.talk import Silence, Talk, one_per_host

ROUNDS = 10
APART = 0.01
"""Seconds by which clocks may differ; more confuses readers of logs and of the ages of files."""


def offset(talk: Talk, leader: int, peer: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds by which ``peer``'s clock is ahead of ``leader``'s, and their error bound.

    The leader asks for the time. It takes the answer of the quickest round as the time in the
    middle between question and answer. Both numbers are on the leader only; the peer gets zeros.
    """
    moment = np.zeros(1)
    if talk.rank == peer:
        for _ in range(ROUNDS):
            talk.receive(moment, leader)
            moment[0] = clock()
            talk.send(moment, leader)
        return 0.0, 0.0
    found = []
    for _ in range(ROUNDS):
        asked = clock()
        talk.send(moment, peer)
        talk.receive(moment, peer)
        answered = clock()
        found.append(((answered - asked) / 2, float(moment[0]) - (asked + answered) / 2))
    error, ahead = min(found)
    return ahead, error


def clocks(talk: Talk, hosts: Sequence[str]) -> Iterator[Finding]:
    """Compare every host's time of day with that of the first host."""
    ahead: dict[str, tuple[float, float]] = {}
    for host, peer in one_per_host(hosts).items():
        if peer == 0 or peer in talk.lost:
            continue
        mine: tuple[float, float] | None = None
        try:
            if talk.rank in (0, peer):
                mine = offset(talk, 0, peer, time.time)
        except Silence:
            pass  # the ping-pong said so
        seen = talk.gather(mine)[0]
        if seen is not None:
            ahead[host] = seen
    yield from judge_clocks(hosts[0], ahead)


def judge_clocks(first: str, ahead: dict[str, tuple[float, float]]) -> Iterator[Finding]:
    """Judge the clocks of the other hosts: host -> (seconds ahead of the first host, error)."""
    if not ahead:
        yield Finding("clocks", "ok", f"one, of {first}")
    for host, (seconds, error) in ahead.items():
        found = f"{host} is {seconds * 1e3:+.1f} ms from {first}, to {error * 1e3:.1f} ms"
        if abs(seconds) - error > APART:
            yield Finding("clocks", "warn", found, "let NTP or chrony set the clocks of all hosts")
        else:
            yield Finding("clocks", "ok", found)
