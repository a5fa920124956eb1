"""Laws of the thread that writes: it is bounded, it rests, and it loses nothing."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from pint_diffusion.errors import StoreError
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.manifest import Manifest, Writing, parts_of
from pint_diffusion.store.names import PARTS
from pint_diffusion.store.part import PartName, read_part, write_part
from pint_diffusion.store.writer import QUEUE, REST, Writer

CPU = torch.device("cpu")
RUN = "the run"


@pytest.fixture
def make(tmp_path):
    (tmp_path / PARTS).mkdir()
    here, made = Directory.of(tmp_path), []

    def make(every=True, columns=(0,)):
        made.append(Writer(here, RUN, 0, 0, columns, False, EventLog(0), 0, every, CPU))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


def state(k):
    return torch.full((1, 1, 2), float(k))


def test_a_slow_disk_is_waited_for_and_holds_a_bounded_number_of_states(make, tmp_path):
    writer, go = make(), threading.Event()
    writer.do(go.wait)
    handed_over = []

    def compute():
        for k in range(3 * QUEUE):
            writer.record(0, k, state(k))
            handed_over.append(k)

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join(0.6)
    assert thread.is_alive()
    assert len(handed_over) <= QUEUE
    go.set()
    thread.join(20)
    writer.close()
    assert [part.k for part in parts_of(tmp_path)] == list(range(3 * QUEUE))


def test_a_failure_ends_who_waits_for_the_queue(make):
    writer, go = make(), threading.Event()

    def fail():
        go.wait()
        raise OSError(28, "No space left on device")

    writer.do(fail)
    threading.Timer(0.5, go.set).start()

    def compute():
        for k in range(3 * QUEUE):
            writer.record(0, k, state(k))

    with pytest.raises(StoreError, match="No space left"):
        compute()
    with pytest.raises(StoreError, match="No space left"):
        writer.close()


def test_last_words_do_not_wait_for_a_full_queue(make):
    writer, go = make(), threading.Event()
    writer.do(go.wait)
    for _ in range(QUEUE):
        writer.do(lambda: None)
    begun = time.monotonic()
    writer.do(lambda: None, timeout=0.3)
    assert time.monotonic() - begun < 10
    go.set()


def test_what_is_not_to_be_written_is_never_copied_from_its_device(make, monkeypatch):
    writer, copied = make(every=False), []
    monkeypatch.setattr(writer._side, "to_host", lambda x: copied.append(x) or x)
    for k in range(50):
        writer.record(0, k, state(k))
        writer.decided(k, False)
    assert copied == []
    assert len(writer._rows) <= 2


def test_a_state_that_has_not_moved_is_written_as_it_was(make, tmp_path):
    writer = make()
    writer.record(0, 0, state(7))
    writer.record(0, 1, None)
    writer.close()
    assert [
        read_part(Directory.of(tmp_path), part, RUN)[0].max() for part in parts_of(tmp_path)
    ] == [7, 7]


def test_the_thread_rests_four_times_as_long_as_it_wrote(make):
    writer = make()
    assert writer.rested
    begun = time.monotonic()
    writer.do(lambda: time.sleep(0.2))
    assert not writer.rested
    while not writer.rested:
        time.sleep(0.01)
    assert time.monotonic() - begun >= (1 + REST) * 0.2


def test_of_jobs_that_can_wait_the_newest_is_run_when_it_is_time_and_at_the_end(make):
    writer, ran = make(), []

    def late(name):
        def job():
            ran.append((name, time.monotonic()))
            time.sleep(0.1)

        return lambda: writer.later(job)

    writer.do(late("first"))
    while not ran:
        time.sleep(0.01)
    for name in ("replaced", "second"):
        writer.do(late(name))
    while len(ran) < 2:
        time.sleep(0.01)
    writer.do(late("last"))
    writer.close()
    assert [name for name, _ in ran] == ["first", "second", "last"]
    assert ran[1][1] - ran[0][1] >= (1 + REST) * 0.1
    assert ran[2][1] - ran[1][1] < (1 + REST) * 0.1 + 5


def test_rank_0_reads_the_names_of_new_parts_alone(tmp_path, monkeypatch):
    """And an iteration of which a part comes late is found then."""
    (tmp_path / PARTS).mkdir()
    here = Directory.of(tmp_path)
    parts = here.below(PARTS)
    for k in range(6):
        write_part(parts, RUN, 0, k, 0, "a", {0: state(k).numpy()})
        if k != 3:
            write_part(parts, RUN, 0, k, 0, "b", {1: state(k).numpy()})
    manifest = Manifest(here, RUN, {}, [], Writing(0, 1, 1, False))
    manifest.extend()
    assert list(manifest.rows) == [0, 1, 2, 4, 5]
    parse, parsed = PartName.parse, []
    monkeypatch.setattr(PartName, "parse", lambda name: parsed.append(name) or parse(name))
    late = write_part(parts, RUN, 0, 3, 0, "b", {1: state(3).numpy()})
    manifest.extend()
    assert sorted(manifest.rows) == list(range(6))
    assert parsed == [str(late)]
    gone = manifest.forget_old()
    manifest.delete(gone)
    assert len(parts_of(tmp_path)) == 4
