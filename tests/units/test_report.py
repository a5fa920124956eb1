"""Laws of the reports, on runs made up by a simulator of pipelined Parareal."""

from __future__ import annotations

import heapq
import io
import subprocess
import sys
import time
import tracemalloc
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pint_diffusion.errors import InputError
from pint_diffusion.report.bound import dataflow_bound
from pint_diffusion.report.pictures import draw_refinement, draw_samples
from pint_diffusion.report.progress import Progress, guess_stop
from pint_diffusion.report.summary import mean_difference, summary_table, time_shares
from pint_diffusion.report.wavefront import draw_wavefront
from pint_diffusion.runtime.events import EVENT_DTYPE
from pint_diffusion.store.record import RunRecord


def simulate(
    bounds: list[int],
    k_stop: int,
    ranks: int,
    *,
    call: float = 1.0,
    row: float = 0.0,
    latency: float = 0.0,
    jitter: float = 0.0,
) -> tuple[Any, float]:
    """Run pipelined Parareal, coarse solves on rank 0, on ranks that batch whatever is ready.

    A call of r rows takes call + (r - 1) row seconds. Returns the events and the time of u_M^k.
    """
    rng = np.random.default_rng(0)
    slices = len(bounds) - 1
    events: list[tuple[Any, ...]] = []
    heap: list[tuple[float, int, Any, Any]] = []
    number = count()
    ready: list[list[tuple[int, int, str, int]]] = [[] for _ in range(ranks)]  # k, n, kind, step
    running: list[list[tuple[int, int, str, int]]] = [[] for _ in range(ranks)]
    idle_since = [0.0] * ranks
    known: set[tuple[str, int, int]] = set()  # on rank 0

    def owner(n: int) -> int:
        return n * ranks // slices

    def send(now: float, source: int, target: int, item: tuple[str, int, int]) -> None:
        if source == target:
            arrive(now, target, item)
            return
        _, n, k = item
        took = latency * (1 + rng.random())
        events.append((source, n, k, "send", now, now + took / 2))
        events.append((target, n, k, "recv", now, now + took))
        heapq.heappush(heap, (now + took, next(number), target, item))

    def arrive(now: float, rank: int, item: tuple[str, int, int]) -> None:
        what, n, k = item
        if what == "start":
            ready[rank].append((k, n, "fine", 0))
        elif item not in known:
            known.add(item)
            if what == "u" and n < slices:
                ready[0].append((k, n, "coarse", 0))
                send(now, 0, owner(n), ("start", n, k))
            correct(now, n, k + 1 if what == "f" else k)
            if what == "g":
                correct(now, n, k + 1)

    def correct(now: float, n: int, k: int) -> None:
        """Make u_{n+1}^k if what it needs is there."""
        if n >= slices or ("u", n + 1, k) in known or k > n + 1:
            return
        need = [("f", n, k - 1)] if k else []
        need += [("g", n, k)] if k <= n else []
        if k == n + 1 or all(item in known for item in need):
            if k == n + 1 and ("f", n, k - 1) not in known:
                return
            arrive(now, 0, ("u", n + 1, k))

    arrive(0.0, 0, ("u", 0, 0))
    now = 0.0
    while ("u", slices, k_stop) not in known:
        for rank in range(ranks):
            if not running[rank] and ready[rank]:
                if now > idle_since[rank]:
                    events.append((rank, -1, -1, "wait", idle_since[rank], now))
                running[rank], ready[rank] = ready[rank], []
                rows = len(running[rank])
                took = (call + (rows - 1) * row) * (1 + jitter * rng.random())
                events.extend(
                    (rank, n, k, kind, now, now + took) for k, n, kind, _ in running[rank]
                )
                heapq.heappush(heap, (now + took, next(number), rank, None))
        now = heap[0][0]
        while heap and heap[0][0] == now:
            _, _, rank, item = heapq.heappop(heap)
            if item is not None:
                arrive(now, rank, item)
                continue
            made, running[rank], idle_since[rank] = running[rank], [], now
            for k, n, kind, i in made:
                if kind == "coarse":
                    arrive(now, rank, ("g", n, k))
                elif bounds[n] + i + 1 < bounds[n + 1]:
                    ready[rank].append((k, n, kind, i + 1))
                else:
                    send(now, rank, 0, ("f", n, k))
    for rank in range(ranks):
        if not running[rank] and now > idle_since[rank]:
            events.append((rank, -1, -1, "wait", idle_since[rank], now))
    table = np.array(events, dtype=EVENT_DTYPE)
    return table[table["stop"] <= now + call], now


def nothing_is_cut_off(path: Any) -> bool:
    """Whether the picture's border is white."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def even(slices: int, steps: int) -> list[int]:
    return [n * steps for n in range(slices + 1)]


def blobs(samples: int, side: int = 28) -> np.ndarray:
    """Smooth pictures in [-1, 1]."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side] / side
    pictures = np.zeros((samples, 1, side, side))
    for i in range(samples):
        for cy, cx, r in rng.uniform((0.25, 0.25, 0.05), (0.75, 0.75, 0.18), (4, 3)):
            pictures[i, 0] += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * r**2))
    return np.clip(2 * pictures, 0, 2) - 1


def make_record(
    *,
    slices: int = 8,
    steps: int = 8,
    k: int = 3,
    ranks: int = 8,
    samples: np.ndarray | None = None,
    events: Any = None,
    sequential: bool = True,
    **facts: Any,
) -> RunRecord:
    """Make up a converging run; its iterates come 20 times nearer to the answer each time."""
    rng = np.random.default_rng(2)
    bounds = even(slices, steps)
    truth = blobs(12) if samples is None else samples
    boundary = np.stack(
        [truth + 0.6 * 0.05**j * rng.normal(size=truth.shape) for j in range(k + 1)]
    )
    boundary = np.repeat(boundary[:, None], slices + 1, axis=1)
    wall = 1.0
    if events is None:
        events, wall = simulate(bounds, k, ranks, call=0.02, row=0.001, latency=0.0006, jitter=0.05)
    moved = 127.5 * np.abs(np.diff(boundary[:, -1], axis=0)).reshape(k, len(truth), -1).mean(axis=2)
    stopped_at = np.full(len(truth), k, np.int32)
    stopped_at[0] = k - 1
    return RunRecord(
        samples=boundary[k, -1],
        boundary=boundary,
        sequential=truth if sequential else None,
        change=moved,
        stopped_at=stopped_at,
        alpha_bar=np.linspace(0.001, 1, bounds[-1] + 1),
        bounds=np.array(bounds),
        events=events,
        config={
            "model": None,
            "steps": bounds[-1],
            "samples": len(truth),
            "seed": 0,
            "method": {"name": "parareal", "slices": slices, "tolerance": 0.2},
            "solver": {"name": "ddim"},
        },
        facts={
            "iterations": k,
            "converged": True,
            "exact": False,
            "evaluations": 181,
            "evaluations_wasted": 20,
            "evaluations_deep": k * steps + slices - k,
            "calls_deep": k * steps + slices - k + 2,
            "wall_time": wall,
            "sequential_wall_time": 1.9 * wall,
            "evaluation_time": 0.02,
            "ranks": ranks,
            "hosts": [f"node{r // 4}" for r in range(ranks)],
            "devices": ["cpu"] * ranks,
            "data_range": [-1.0, 1.0],
            "method": "parareal",
            "solver": "ddim",
            "options": "",
            "tolerance": 0.2,
            "tolerance_unit": "/ 255",
            "enough_iterations": slices,
            "counts": "changes",
            "column": "slice",
            "retires": True,
            "iterates": True,
            "uses_coarse": facts.get("method", "parareal") == "parareal",
            "status": "finished",
            "coarse_solver": "ddim",
            "fine_evaluations": np.diff(bounds).tolist(),
            "coarse_evaluations": [1] * slices,
            "mpi_library": "none",
            **facts,
        },
    )


# ---------------------------------------------------------------- bound


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 25), st.integers(1, 12))
def test_bound_of_even_slices_is_the_formula_of_srds(m: int, b: int, k: int, c: int) -> None:
    k, c = min(k, m), min(c, b)
    assert dataflow_bound([b] * m, [1] * m, k) == k * b + m - k
    assert dataflow_bound([b] * m, [c] * m, k) == k * b + (m - k) * c


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(0, 8))
def test_bound_of_uneven_slices_is_reached_by_a_tick_simulation(lengths: list[int], k: int) -> None:
    bounds = [0, *np.cumsum(lengths).tolist()]
    k = min(k, len(lengths))
    _, ticks = simulate(bounds, k, len(lengths))
    assert dataflow_bound(lengths, [1] * len(lengths), k) == ticks


def test_bound_after_as_many_iterations_as_slices_is_the_sequential_walk() -> None:
    fine, coarse = [3, 1, 5, 2], [1, 1, 2, 1]
    assert dataflow_bound(fine, coarse, 4) == dataflow_bound(fine, coarse, 7) == 11


@pytest.mark.parametrize(
    ("fine", "coarse", "k"), [([3, 0], [1, 1], 1), ([], [], 1), ([3], [1], -1), ([3, 3], [1], 1)]
)
def test_bound_refuses_slices_without_evaluations(
    fine: list[int], coarse: list[int], k: int
) -> None:
    with pytest.raises(InputError):
        dataflow_bound(fine, coarse, k)


# ---------------------------------------------------------------- summary


@pytest.mark.parametrize("converged", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_summary_says_not_converged_exactly_when_the_run_is_not(
    converged: bool, exact: bool
) -> None:
    table = summary_table(make_record(converged=converged, exact=exact))
    assert ("NOT CONVERGED" in table) == (not converged and not exact)
    assert ("--max-iterations" in table) == (not converged and not exact)


def test_summary_tells_measured_from_unmeasured_speed_up() -> None:
    assert "1.90x (measured)" in summary_table(make_record())
    record = make_record()
    del record.facts["sequential_wall_time"]
    table = summary_table(record)
    assert "not measured; --verify" in table
    assert "(measured)" not in table


def test_summary_warns_of_ranks_that_share_cores_and_only_of_them() -> None:
    assert "share cores" in summary_table(make_record(cores_per_rank=0.25))
    assert "share cores" not in summary_table(make_record(cores_per_rank=1.0))
    assert "share cores" not in summary_table(make_record())


def test_summary_counts_samples_by_their_stopping_iteration() -> None:
    assert "2 (1 sample), 3 (11 samples)" in summary_table(make_record())


def test_summary_calls_only_equal_arrays_equal_bit_for_bit() -> None:
    record = make_record()
    assert record.sequential is not None
    assert "bit for bit" not in summary_table(record)
    record.samples[:] = record.sequential
    assert "bit for bit" in summary_table(record)
    record.samples[0, 0, 0, 0] += 1e-12
    assert "bit for bit" not in summary_table(record)


def test_summary_of_a_sequential_run_has_no_parareal_lines() -> None:
    record = make_record(method="sequential", uses_coarse=False, iterates=False, iterations=0)
    record = RunRecord(**{**vars(record), "change": np.empty((0, 12))})
    table = summary_table(record)
    assert "bound" not in table
    assert "iterations" not in table


def test_time_shares_count_batched_rows_and_overlaps_once() -> None:
    rows = [
        (0, 0, 0, "fine", 0.0, 2.0),
        (0, 1, 0, "coarse", 0.0, 2.0),  # same call
        (0, -1, -1, "wait", 2.0, 5.0),
        (0, 0, 0, "shared", 5.0, 6.0),
        (0, 1, 0, "send", 1.0, 3.0),
        (0, 1, 0, "recv", 2.5, 3.5),
        (1, 1, 0, "fine", 4.0, 10.0),
        (1, 2, 0, "fine", 5.0, 7.0),
    ]
    first, second, third = time_shares(np.array(rows, EVENT_DTYPE), 3)
    assert first == pytest.approx((3.0, 3.0, 4.0, 2.5), abs=1e-12)
    assert second == pytest.approx((6.0, 0.0, 4.0, 0.0), abs=1e-12)
    assert third == pytest.approx((0.0, 0.0, 10.0, 0.0), abs=1e-12)


def test_time_table_lists_eight_ranks_and_summarises_more() -> None:
    assert "rank 7" in summary_table(make_record())
    events, _ = simulate(even(9, 4), 2, 9)
    table = summary_table(make_record(slices=9, steps=4, k=2, ranks=9, events=events))
    assert "rank 0" not in table
    assert "median" in table


def test_summary_of_a_run_without_events_has_no_time_table() -> None:
    table = summary_table(make_record(events=np.empty(0, EVENT_DTYPE)))
    assert "where the time went" not in table


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_samples_show_known_pixels_in_their_place(channels: tuple[int, ...], tmp_path: Any) -> None:
    data = np.full((5, *channels, 28, 28), -1.0)
    data[4, ..., 3, 20] = 0.2  # second row, second column of a 3 x 2 grid
    data[0, ..., 0, 0] = 7.0  # beyond the range: clipped for display
    draw_samples(make_record(samples=data, sequential=False, k=1), tmp_path / "a.png")
    record = make_record(samples=data, sequential=False, k=1)
    record.samples[:] = data
    draw_samples(record, tmp_path / "samples.png")
    pixels = np.asarray(Image.open(tmp_path / "samples.png").convert("RGB"))
    assert pixels.shape == (2 * 116 + 4, 3 * 116 + 4, 3)
    y, x = 4 + 116 + 4 * 3, 4 + 116 + 4 * 20
    assert (pixels[y : y + 4, x : x + 4] == round(0.6 * 255)).all()
    assert (pixels[y - 1, x : x + 4] == 0).all()
    assert (pixels[4:8, 4:8] == 255).all()
    assert (pixels[4 + 116 :, 4 + 2 * 116 :] == 255).all()  # no sixth sample


def test_samples_show_not_a_number_in_magenta(tmp_path: Any) -> None:
    record = make_record()
    record.samples[0, 0, 0, 0] = np.nan
    draw_samples(record, tmp_path / "samples.png")
    pixels = np.asarray(Image.open(tmp_path / "samples.png").convert("RGB"))
    assert pixels[5, 5].tolist() == [255, 0, 255]


def test_samples_that_do_not_fit_are_announced(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pint_diffusion.report.pictures._SIDE", 400)
    draw_samples(make_record(), tmp_path / "samples.png")
    assert Image.open(tmp_path / "samples.png").size == (352, 352 + 20)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 16, 24), (4, 8, 8), (2,), (7,), (1,)])
@pytest.mark.parametrize("sequential", [True, False])
def test_every_kind_of_data_is_drawn(
    shape: tuple[int, ...], sequential: bool, tmp_path: Any
) -> None:
    data = np.random.default_rng(3).normal(size=(6, *shape))
    record = make_record(samples=data, sequential=sequential)
    draw_samples(record, tmp_path / "samples.png")
    draw_refinement(record, tmp_path / "refinement.png")
    for name in ("samples.png", "refinement.png"):
        width, height = Image.open(tmp_path / name).size
        assert 100 < width < 3000
        assert 100 < height < 3000
        assert nothing_is_cut_off(tmp_path / name)


def test_refinement_has_at_most_ten_columns_the_first_and_the_last(tmp_path: Any) -> None:
    from pint_diffusion.report.pictures import _columns

    titles = [title for title, _ in _columns(make_record(slices=14, k=14, ranks=2, steps=2))]
    assert titles == [*(f"k = {k}" for k in range(8)), "k = 14", "sequential"]
    titles = [title for title, _ in _columns(make_record(sequential=False))]
    assert titles == ["k = 0", "k = 1", "k = 2", "k = 3"]


def test_mean_difference_is_on_the_scale_of_grey_values() -> None:
    a = np.array([-1.0, 1.0], np.float32)
    assert mean_difference(a, np.zeros(2, np.float32), (-1, 1)) == pytest.approx(127.5, rel=1e-12)


# ---------------------------------------------------------------- wavefront


@pytest.mark.parametrize("ranks", [1, 4, 8])
def test_wavefront_is_drawn_on_any_number_of_ranks(ranks: int, tmp_path: Any) -> None:
    draw_wavefront(make_record(ranks=ranks), tmp_path / "wavefront.png")
    width, height = Image.open(tmp_path / "wavefront.png").size
    assert width == 1650
    assert 400 < height < 1500
    assert nothing_is_cut_off(tmp_path / "wavefront.png")


def test_wavefront_takes_no_events_and_events_of_no_iteration(tmp_path: Any) -> None:
    rows = np.array([(0, 0, -1, "fine", 0.0, 1.0), (1, -1, -1, "wait", 0.0, 1.0)], EVENT_DTYPE)
    waits = rows[1:]
    for events in (rows, waits, rows[:0]):
        draw_wavefront(make_record(events=events, ranks=2), tmp_path / "wavefront.png")
        assert Image.open(tmp_path / "wavefront.png").size[0] == 1650


def test_rows_of_one_call_do_not_hide_each_other() -> None:
    from pint_diffusion.report.wavefront import _boxes, _sublanes

    events, _ = simulate(even(8, 8), 3, 4, call=0.02, latency=0.001, jitter=0.1)
    made = events[np.isin(events["kind"], (b"fine", b"coarse"))]
    boxes = _boxes(made, *_sublanes(made, 4))
    for i in range(len(made)):
        x0, x1, y0, y1 = boxes[i]
        over = (boxes[:, 0] < x1 - 1e-9) & (boxes[:, 1] > x0 + 1e-9)
        over &= (boxes[:, 2] < y1 - 1e-9) & (boxes[:, 3] > y0 + 1e-9)
        assert over.sum() == 1
        assert made["rank"][i] < y0 < y1 < made["rank"][i] + 1


def test_wavefront_of_64_ranks_and_50000_events_needs_little_memory_and_time(tmp_path: Any) -> None:
    per_rank = 782
    rows = np.zeros(64 * per_rank, EVENT_DTYPE)
    number = np.tile(np.arange(per_rank), 64)
    rows["rank"] = rows["slice"] = np.repeat(np.arange(64), per_rank)
    rows["iteration"] = number // 100
    rows["kind"] = np.array([b"fine", b"fine", b"coarse", b"wait", b"send", b"recv"])[number % 6]
    rows["start"] = 0.01 * number + 0.005 * rows["rank"]
    rows["stop"] = rows["start"] + 0.01
    record = make_record(slices=64, steps=16, k=7, ranks=64, events=rows, samples=np.zeros((2, 2)))
    draw_wavefront(make_record(), tmp_path / "warm_up.png")
    start = time.process_time()
    draw_wavefront(record, tmp_path / "wavefront.png")
    assert time.process_time() - start < 10
    tracemalloc.start()
    draw_wavefront(record, tmp_path / "wavefront.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert Image.open(tmp_path / "wavefront.png").size[1] > 1000


# ---------------------------------------------------------------- progress


def test_progress_prints_one_line_per_iteration_when_not_on_a_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(4, 4, 0.1, stream)
    progress.boundary(4, 0, None)
    for k, size in ((1, 10.0), (2, 1.5)):
        for n in range(k, 5):
            progress.boundary(n, k, np.array([size / 2, size]))
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["iteration 0", "iteration 1", "iteration 2"]
    assert "1.5" in lines[2]
    assert "0.1" in lines[2]


def test_progress_on_a_terminal_is_one_live_line() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(4, 4, 0.1, stream)
    progress.boundary(4, 0, None)
    for k in (1, 2, 3):
        for n in range(k, 5):
            progress.boundary(n, k, np.array([10.0 / k**4 if k < 3 else 0.01]))
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert "iteration 3, change 0.625 >= 0.1" in stream.getvalue()
    assert "iteration 3: done, change 0.01 < 0.1" in stream.getvalue().split("\r")[-1]


@pytest.mark.parametrize(
    ("changes", "stop"),
    [
        ({}, None),
        ({1: 100.0}, None),
        ({1: 0.05}, 1),
        ({1: 100.0, 2: 11.0}, 5),
        ({1: 100.0, 2: 9.0}, 4),
        ({1: 1.0, 2: 2.0}, 9),
        ({1: 1e9, 2: 9e8}, 9),
        ({9: 50.0}, 9),
    ],
)
def test_stop_is_guessed_from_the_decay_of_the_change(
    changes: dict[int, float], stop: int | None
) -> None:
    assert guess_stop(changes, 0.1, 9) == stop


# ---------------------------------------------------------------- imports


def test_reports_import_neither_torch_nor_mpi4py_nor_h5py() -> None:
    names = ("bound", "pictures", "progress", "summary", "wavefront")
    code = "".join(f"import pint_diffusion.report.{name}\n" for name in names)
    code += "import sys; print(*{'torch', 'mpi4py', 'h5py', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
