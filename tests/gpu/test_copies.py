"""Copies between device and host: whole, in order, beside the kernels, and on the right device."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from helpers.launch import launch

from pint_diffusion.runtime import copies
from pint_diffusion.runtime.copies import SideStream, bind_thread
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.requests import Clock, Key
from pint_diffusion.runtime.transports.base import Message
from pint_diffusion.runtime.world import LocalWorld, world_of
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.manifest import parts_of
from pint_diffusion.store.names import PARTS
from pint_diffusion.store.part import read_part
from pint_diffusion.store.writer import Writer

LONG = 2 * 10**9
"""Clock ticks of a kernel that takes about a second."""


def busy(device):
    """Give the device's stream a second of work."""
    if device.type == "cuda":
        torch.cuda._sleep(LONG)


@pytest.fixture
def transport(device):
    """A transport of MPI from this rank to itself."""
    from mpi4py import MPI

    made = world_of(MPI.COMM_SELF).transport(EventLog(0), device)
    yield made
    made.close()


def arrived(transport):
    """The first message, and its values as the receiver sees them."""
    (message,) = transport.receive(60)
    return message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numbers", [1, 3 * 10**6])
def test_a_value_arrives_unchanged_in_memory_that_the_device_can_read(
    device, transport, dtype, numbers
):
    state = torch.arange(numbers, dtype=dtype, device=device)
    transport.send([0], Message(Key(0, 1, 2), Clock(3, 4), state))
    message = arrived(transport)
    assert (message.key, message.clock) == (Key(0, 1, 2), Clock(3, 4))
    assert message.data.is_pinned() == (device.type == "cuda")
    back = message.data.view(dtype).to(device, non_blocking=True)
    assert torch.equal(back, state)


def test_any_memory_layout_and_no_value(device, transport):
    state = torch.arange(12.0, device=device).reshape(3, 4).T
    transport.send([0], Message(Key(0, 0, 0), Clock(), state))
    assert torch.equal(arrived(transport).data.view(torch.float32).view(4, 3), state.cpu())
    transport.send([0], Message(Key(0, 0, 1), Clock(), None))
    assert arrived(transport).data is None


def test_a_send_does_not_overtake_the_kernel_that_makes_its_value(device, transport):
    """And the value's memory is not another tensor's before it has been copied."""
    busy(device)
    state = torch.zeros(10**6, device=device) + 7
    transport.send([0], Message(Key(0, 0, 0), Clock(), state))
    del state
    garbage = [torch.full((10**6,), -1.0, device=device) for _ in range(20)]
    values = arrived(transport).data.view(torch.float32)
    assert torch.equal(values, torch.full((10**6,), 7.0))
    del garbage


def test_messages_keep_their_order_though_a_copy_is_late(device, transport):
    busy(device)
    transport.send([0], Message(Key(0, 0, 0), Clock(), torch.ones(10**6, device=device)))
    transport.send([0], Message(Key(0, 0, 1), Clock(), None))
    came = []
    while len(came) < 2:
        came += transport.receive(60)
    assert [message.key.k for message in came] == [0, 1]


def test_a_recorded_state_is_the_one_that_was_made_though_its_kernel_is_late(device, tmp_path):
    (tmp_path / PARTS).mkdir()
    writer = Writer(Directory.of(tmp_path), "run", 0, 0, (0,), False, EventLog(0), 0, True, device)
    for k in range(3):
        busy(device)
        writer.record(0, k, torch.zeros(1, 1, 10**5, device=device) + k)
        garbage = torch.full((1, 1, 10**5), -1.0, device=device)
    writer.close()
    values = [read_part(Directory.of(tmp_path), part, "run")[0] for part in parts_of(tmp_path)]
    assert [(value.min(), value.max()) for value in values] == [(k, k) for k in range(3)]
    del garbage


@pytest.mark.gpu
def test_kernels_do_not_wait_for_a_copy(card):
    """The copy is held up on its own stream; a kernel that was issued after it is done before."""
    side, state = SideStream(card), torch.ones(10**6, device=card)
    torch.cuda.synchronize()
    with torch.cuda.stream(side._stream):
        torch.cuda._sleep(LONG)
    copy = side.to_host(state)
    after = state + 1
    done = torch.cuda.Event()
    done.record()
    done.synchronize()
    assert not copy.copied.query()
    assert torch.equal(copy.wait(), torch.ones(10**6))
    assert torch.equal(after.cpu(), torch.full((10**6,), 2.0))


def test_both_threads_bind_their_device_first(device, monkeypatch, tmp_path):
    """A thread that did not would make a context on GPU 0."""
    bound = []
    monkeypatch.setattr(
        copies.torch.cuda,
        "set_device",
        lambda where: bound.append((threading.current_thread().name, where)),
    )
    there = device if device.type == "cuda" else torch.device("cuda", 3)
    for name in ("mpi", "store"):
        thread = threading.Thread(target=bind_thread, args=(there,), name=name)
        thread.start()
        thread.join()
    assert bound == [("mpi", there), ("store", there)]
    if device.type == "cpu":
        return
    from mpi4py import MPI

    bound.clear()
    world_of(MPI.COMM_SELF).transport(EventLog(0), device).close()
    (tmp_path / PARTS).mkdir()
    Writer(Directory.of(tmp_path), "run", 0, 0, (0,), False, EventLog(0), 0, True, device).close()
    assert bound == [("mpi", device), ("store", device)]


@pytest.mark.gpu
def test_no_context_on_gpu_0_from_a_rank_on_another_one(card, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("ONE CARD: whether ranks on other cards touch it can't be seen here")
    act = (
        "import sys, torch; from pint_diffusion.commands.cli import main\n"
        "from pint_diffusion.runtime.world import MpiWorld\n"
        "code = main(sys.argv[1:])\n"
        "import os; rank = int(os.environ['PMI_RANK'])\n"
        "if rank: assert not torch._C._cuda_hasPrimaryContext(0), 'a context on GPU 0'\n"
        "sys.exit(code)"
    )
    given = ["--device", "cuda", "--steps", 8, "--slices", 4, "--out", tmp_path / "run"]
    ended = launch("sample", *given, ranks=2, program=["-c", act])
    assert ended.code == 0, ended


def test_one_process_needs_no_transport_of_mpi(device):
    assert LocalWorld().transport(EventLog(0), device).receive(0) == []
    assert sys.platform == "linux"
