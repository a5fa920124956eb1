"""Laws of the MPI transport."""

from __future__ import annotations

import pytest
import torch

from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.limits import Limits
from pint_diffusion.runtime.requests import Clock, Key
from pint_diffusion.runtime.transports.base import Message
from pint_diffusion.runtime.world import open_world

pytestmark = pytest.mark.mpi


@pytest.fixture
def world():
    return open_world("mpi")


@pytest.fixture
def transport(world):
    return world.transport(EventLog(world.rank), torch.device("cpu"), Limits(60))


@pytest.mark.parametrize("values", [1, 100_000])
def test_closing_takes_in_every_message_under_way(world, transport, values):
    count = 20
    for k in range(count):
        for to in range(world.size):
            state = torch.full((values,), float(world.rank * count + k), dtype=torch.float64)
            transport.send([to], Message(Key(0, world.rank, k), Clock(k, 2 * k), state))
    transport.close()
    came = transport.receive(0)
    assert len(came) == count * world.size
    for message in came:
        _, n, k = message.key
        assert message.clock == Clock(k, 2 * k)
        state = message.data.view(torch.float64)
        assert torch.equal(state, torch.full((values,), float(n * count + k), dtype=torch.float64))


def test_a_message_is_a_copy_and_keeps_the_values_of_any_memory_layout(world, transport):
    state = torch.arange(12.0).reshape(3, 4)
    transport.send([(world.rank + 1) % world.size], Message(Key(0, 0, 0), Clock(), state.T))
    state.zero_()
    transport.close()
    (message,) = transport.receive(0)
    came = message.data.view(torch.float32).view(4, 3)
    assert torch.equal(came, torch.arange(12.0).reshape(3, 4).T)


def test_a_short_message_does_not_overtake_a_long_one(world, transport):
    to = (world.rank + 1) % world.size
    for k in range(0, 20, 2):
        long = torch.zeros(500_000, dtype=torch.float64)
        transport.send([to], Message(Key(0, 0, k), Clock(), long))
        transport.send([to], Message(Key(0, 0, k + 1), Clock(), None))
    transport.close()
    assert [message.key.k for message in transport.receive(0)] == list(range(20))


def test_no_value_is_a_value(world, transport):
    transport.send([(world.rank + 1) % world.size], Message(Key(0, 0, 0), Clock(), None))
    transport.close()
    assert [message.data for message in transport.receive(0)] == [None]
