"""Messages: how fast they are between hosts, and whether they move while a rank computes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pint_diffusion.commands.check.clocks import offset
from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.memory import amount
from pint_diffusion.runtime.talk import Silence, Talk, one_per_host, pattern

BIG = 1 << 20
ROUNDS = 50
SECONDS = 0.25
"""Most seconds of the rounds of one size."""

MOST_HOSTS = 8
"""With more hosts the check times each with the first one only."""

SLOW_LATENCY = 0.01
SLOW_RATE = 10e6

HUGE = 8 << 20
COMPUTING = 0.2
"""Seconds that a rank computes while its message of `HUGE` bytes should leave."""

AGAIN, LAST = 3, 4


@dataclass(frozen=True)
class Timed:
    """The times of a ping-pong between two ranks.

    Attributes
    ----------
    latency : float
        One-way seconds of a byte.
    seconds : float
        One-way seconds of `BIG` bytes.
    unchanged : bool
        The data came back unchanged.
    """

    latency: float
    seconds: float
    unchanged: bool

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return BIG / self.seconds


def pairs(hosts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of ranks to time: one for each pair of hosts, and one on the first host."""
    first = list(one_per_host(hosts).values())
    chosen = list(itertools.combinations(first, 2))
    if len(first) > MOST_HOSTS:
        chosen = [pair for pair in chosen if pair[0] == first[0]]
    neighbours = [rank for rank, host in enumerate(hosts) if host == hosts[0]]
    return [*([(0, neighbours[1])] if len(neighbours) > 1 else []), *chosen]


def ping_pong(talk: Talk, leader: int, peer: int) -> Timed | None:
    """Send bytes to ``peer`` and back; return the times on ``leader``, None elsewhere."""
    medians, unchanged = [], True
    for size in (1, BIG):
        data, back = pattern(size), np.zeros(size, np.uint8)
        if talk.rank == peer:
            tag = AGAIN
            while tag != LAST:
                tag = talk.receive(back, leader)
                talk.send(back, leader, tag)
            continue
        times: list[float] = []
        tag = AGAIN
        while tag != LAST:
            tag = LAST if len(times) == ROUNDS - 1 or sum(times) > SECONDS / 2 else AGAIN
            start = time.perf_counter()
            talk.send(data, peer, tag)
            talk.receive(back, peer)
            times.append((time.perf_counter() - start) / 2)
        medians.append(float(np.median(times)))
        unchanged = unchanged and np.array_equal(back, data)
    return Timed(medians[0], medians[1], unchanged) if talk.rank == leader else None


def speed(talk: Talk, hosts: Sequence[str]) -> Iterator[Finding]:
    """Measure latency and bandwidth of pairs, one pair after the other, and compare the data."""
    for leader, peer in pairs(hosts):
        if talk.lost & {leader, peer}:
            continue
        mine: Timed | str | None = None
        if talk.rank in (leader, peer):
            try:
                mine = ping_pong(talk, leader, peer)
            except Silence:
                mine = "silent"
        timed = talk.gather(mine)
        if "silent" in (timed[leader], timed[peer]):
            talk.lost.add(peer)
        yield judge_speed(leader, peer, hosts, timed[leader])


def judge_speed(leader: int, peer: int, hosts: Sequence[str], timed: Timed | str | None) -> Finding:
    """Judge one pair."""
    same = hosts[leader] == hosts[peer]
    where = f"both on {hosts[leader]}" if same else f"{hosts[leader]} and {hosts[peer]}"
    name = f"ping-pong {leader} - {peer}"
    if not isinstance(timed, Timed):
        to_do = "check that the hosts reach each other (firewall, choice of network interface)"
        return Finding(name, "fail", f"messages do not arrive, {where}", to_do)
    if not timed.unchanged:
        to_do = "this MPI or network can't be trusted; try another build of the library"
        return Finding(name, "fail", f"data came back changed, {where}", to_do)
    found = f"{timed.latency * 1e6:.0f} us one way, {amount(timed.rate)}/s, {where}"
    if not same and (timed.latency > SLOW_LATENCY or timed.rate < SLOW_RATE):
        to_do = "let MPI use the fast network; a state must travel in less than an evaluation"
        return Finding(name, "warn", found, to_do)
    return Finding(name, "ok", found)


def overlap(talk: Talk, hosts: Sequence[str]) -> Iterator[Finding]:
    """Time a big message of a rank that computes, with Isend alone and with a thread for MPI."""
    if talk.size == 1:
        return
    peer = next((rank for rank, host in enumerate(hosts) if host != hosts[0]), 1)
    mine: tuple[float, float] | None = None
    if talk.rank in (0, peer) and peer not in talk.lost:
        try:
            ahead, _ = offset(talk, 0, peer, time.perf_counter)
            mine = _delay(talk, peer, ahead, False), _delay(talk, peer, ahead, True)
        except Silence:
            pass  # judge_overlap reports it
    yield judge_overlap(hosts[0], hosts[peer], talk.gather(mine)[0])


def judge_overlap(here: str, there: str, delays: tuple[float, float] | None) -> Finding:
    """Judge the seconds from send to arrival, without and with a communication thread."""
    name = "messages while computing"
    where = f"on {here}, the only host" if here == there else f"from {here} to {there}"
    if delays is None:
        return Finding(
            name, "fail", f"{amount(HUGE)} {where} did not arrive", "see the ping-pong rows"
        )
    alone, threaded = (f"{delay * 1e3:.0f} ms" for delay in delays)
    found = (
        f"{amount(HUGE)} {where} while the sender computes {COMPUTING * 1e3:.0f} ms: {threaded} "
        f"with a run's communication thread, {alone} with Isend alone"
    )
    if delays[1] > COMPUTING / 2:
        to_do = "give each rank a second core for its communication thread, or a faster network"
        return Finding(name, "warn", found, to_do)
    return Finding(name, "ok", found)


def _delay(talk: Talk, peer: int, ahead: float, threaded: bool) -> float:
    """Return on rank 0 the seconds from its send to the arrival at ``peer``.

    ``peer``'s clock is ``ahead`` by so many seconds.
    """
    data, moment = np.zeros(HUGE, np.uint8), np.zeros(1)
    if talk.rank == peer:
        request = talk.start_receive(data, 0)
        talk.send(moment, 0)
        talk.wait(request, data)
        moment[0] = time.perf_counter()
        talk.send(moment, 0)
        return 0.0
    talk.receive(moment, peer)
    start = time.perf_counter()
    if threaded:
        failed: list[Silence] = []
        thread = threading.Thread(target=_send, args=(talk, data, peer, failed), daemon=True)
        thread.start()
        _compute()
        thread.join()
        if failed:
            raise failed[0]
    else:
        request = talk.start_send(data, peer, AGAIN)
        _compute()
        talk.wait(request, data)
    talk.receive(moment, peer)
    return float(moment[0]) - ahead - start


def _send(talk: Talk, data: np.ndarray, peer: int, failed: list[Silence]) -> None:
    try:
        talk.send(data, peer, AGAIN)
    except Silence as silence:
        failed.append(silence)


def _compute() -> None:
    """Multiply matrices, as a network on a CPU does; other threads can run meanwhile."""
    end = time.perf_counter() + COMPUTING
    matrix = np.eye(128)
    while time.perf_counter() < end:
        matrix = matrix @ matrix
