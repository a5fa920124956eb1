"""Every misconfiguration that ``check`` knows is made, and named."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
import torch
from helpers.launch import launch

from pint_diffusion.build.sizes import MORE_STATES
from pint_diffusion.commands.check import clocks, command, files, gpu_aware, messages
from pint_diffusion.commands.check.command import check, load
from pint_diffusion.commands.check.facts import Facts, Network, collect
from pint_diffusion.commands.check.finding import Finding, table
from pint_diffusion.commands.check.quick import held_of, judge, quick_check, refuse_or_warn
from pint_diffusion.errors import InputError
from pint_diffusion.memory import free_memory
from pint_diffusion.models import peek
from pint_diffusion.runtime import talk
from pint_diffusion.runtime.talk import Silence, Talk
from pint_diffusion.runtime.world import LocalWorld, open_world
from pint_diffusion.settings.check import Check
from pint_diffusion.settings.run import Settings

GPU = "GPU-1f"


def row(text: str, name: str) -> tuple[str, str]:
    """Level of a row of the table, and its text with what to do."""
    lines = text.splitlines()
    (number,) = [n for n, line in enumerate(lines) if line[6:].startswith(name + " ")]
    below = lines[number + 1]
    return lines[number][:4].strip(), lines[number] + (below if "->" in below else "")


def named(findings, name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


@pytest.fixture
def rank():
    """Facts of a rank on a host of eight cores and no GPU, with changes."""

    def make(number=0, host="h1", **changes) -> Facts:
        usual = Facts(
            rank=number, host=host, launcher="PMI", variables={}, device="cpu", uuid="",
            problem="", cores=frozenset(range(8)), host_cores=8, free=10**9, device_free=0,
        )  # fmt: skip
        return dataclasses.replace(usual, **changes)

    return make


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(talk, "PATIENCE", 0.6)


# ---- launcher ------------------------------------------------------------------------------------

PRETENDED = {
    "PMI": {"PMI_RANK": "0", "PMI_SIZE": "4"},
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"},
    "srun": {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"},
}


@pytest.mark.parametrize("launcher", ["Open MPI", "srun"])
def test_a_launcher_of_another_library_that_starts_single_processes(launcher):
    ended = launch("check", environment=PRETENDED[launcher])
    level, told = row(ended.out, "MPI")
    assert (ended.code, level) == (2, "fail"), ended
    assert "started 4 processes but MPI sees 1" in told
    assert "srun --mpi=pmi2" in told


def test_pmi_that_counts_other_ranks_than_mpi(monkeypatch, capsys):
    """In MPICH's own words this can't be pretended to a process that MPICH has not started."""
    for name, value in PRETENDED["PMI"].items():
        monkeypatch.setenv(name, value)

    def refuse(_):
        raise InputError("PMI started 4 processes but MPI sees 1: use its launcher")

    assert check(Check(), refuse) == 2
    assert row(capsys.readouterr().out, "MPI")[0] == "fail"


def test_a_rank_of_a_launcher_that_mpi_does_not_know(rank):
    finding = named(judge([rank(launcher="", variables={"PMIX_RANK": "3"})], True), "launcher")
    assert finding.level == "fail"
    assert "PMIX_RANK is 3" in finding.found


def test_fewer_ranks_than_slurm_was_asked_for(monkeypatch, world):
    tasks = str(world.size + 4)
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    finding = named(quick_check(Settings(), world), "launcher")
    assert finding.level == "warn"
    assert f"SLURM_NTASKS is {tasks}" in finding.found


def test_a_thread_level_that_is_too_low(tmp_path):
    act = (
        "import sys, mpi4py; mpi4py.rc.thread_level = 'funneled'; "
        "from pint_diffusion.commands.cli import main; sys.exit(main(['check', *sys.argv[1:]]))"
    )
    ended = launch(program=["-c", act], ranks=2)
    level, told = row(ended.out, "MPI")
    assert (ended.code, level) == (2, "fail"), ended
    assert "MPI_THREAD_SERIALIZED" in told
    assert ended.out.count("wrong: 1") == 1


def test_no_mpi_library_is_a_warning_to_one_process(capsys):
    def refuse(_):
        raise InputError("mpi4py found no MPI library: load one")

    assert check(Check(), refuse) == 0
    assert row(capsys.readouterr().out, "MPI")[0] == "warn"


# ---- cores ---------------------------------------------------------------------------------------


def test_more_omp_threads_than_cores(monkeypatch, world):
    monkeypatch.setenv("OMP_NUM_THREADS", "640")
    finding = named(quick_check(Settings(), world), "OMP_NUM_THREADS")
    assert finding.level == "warn"
    assert "OMP_NUM_THREADS is 640" in finding.found


def test_more_ranks_than_cores(rank):
    ranks = [rank(n, cores=frozenset({0, 1}), host_cores=2) for n in range(4)]
    assert "4 ranks share 2 cores" in named(judge(ranks, False), "cores").found
    assert "cores" not in [finding.name for finding in judge(ranks, True)]


def test_ranks_bound_to_one_core_of_many(rank):
    ranks = [rank(n, cores=frozenset({5})) for n in range(4)]
    for quick in (True, False):
        finding = named(judge(ranks, quick), "cores")
        assert finding.level == "warn"
        assert "4 ranks share 1 of the 8 cores" in finding.found


@pytest.mark.mpi(min_size=2)
def test_ranks_that_are_bound_to_the_same_core():
    world = open_world("mpi")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        facts = world.gather(collect(world, "cpu"))
    finally:
        os.sched_setaffinity(0, before)
    finding = named(judge(facts, False), "cores")
    assert finding.level == "warn"
    assert f"{world.size} ranks share 1 " in finding.found


# ---- devices -------------------------------------------------------------------------------------


class Cuda:
    """torch.cuda with one card, as far as checks look at it."""

    uuid = GPU

    def __init__(self, monkeypatch, count=1):
        for name, answer in {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "set_device": lambda device: None,
            "current_device": lambda: 0,
            "get_device_properties": lambda device: self,
            "mem_get_info": lambda device: (10**9, 10**9),
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)


def test_several_ranks_on_one_gpu(monkeypatch):
    Cuda(monkeypatch)
    ranks = [
        collect(LocalWorld(local_rank=n, rank=n, size=3, local_size=3), "auto") for n in range(3)
    ]
    finding = named(judge(ranks, True), "GPU")
    assert finding.level == "warn"
    assert finding.found.startswith("ranks 0, 1, 2 share cuda:0")
    assert "one rank per GPU" in finding.to_do


def test_a_gpu_that_another_process_owns(monkeypatch):
    Cuda(monkeypatch)

    def busy(device):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nadvice")

    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    finding = named(judge([collect(LocalWorld(), "auto")], True), "device")
    assert finding.level == "fail"
    assert "busy" in finding.sentence
    assert "one rank per GPU" in finding.to_do


def test_a_network_that_does_not_fit(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nadvice")

    monkeypatch.setattr(command, "load_denoiser", full)
    _, network = load(Check(model="a:b"), LocalWorld())
    assert network.problem == "a:b can't be loaded: CUDA out of memory. Tried to allocate 20 GiB"


def test_the_global_rank_as_the_visible_device(rank):
    ranks = [rank(n, device="cuda:0", uuid=f"{GPU}{n}") for n in range(4)]
    ranks.append(rank(4, host="h2", variables={"CUDA_VISIBLE_DEVICES": "4"}))
    finding = named(judge(ranks, True), "device")
    assert finding.level == "fail"
    assert "rank 4 on h2 see no GPU (CUDA_VISIBLE_DEVICES=4" in finding.found
    assert "global rank" in finding.to_do


def test_a_network_on_the_device_of_the_global_rank(rank):
    wrong = Network(devices=("cuda:5",), current="cuda:1")
    finding = named(judge([rank(5, device="cuda:1", uuid=GPU, network=wrong)], False), "network")
    assert finding.level == "fail"
    assert "bound to cuda:1, but its network uses cuda:5, which is its global rank" in finding.found


def test_a_factory_that_changes_the_current_device(rank):
    wrong = Network(devices=("cuda:1",), current="cuda:3")
    finding = named(judge([rank(3, device="cuda:1", uuid=GPU, network=wrong)], False), "network")
    assert finding.level == "fail"
    assert "torch.cuda.set_device" in finding.to_do


def test_a_factory_that_asks_for_a_gpu_that_is_not_there(rank):
    wrong = Network(problem="net.py:make: CUDA error: invalid device ordinal")
    finding = named(judge([rank(7, network=wrong)], False), "network")
    assert finding.level == "fail"
    assert "the device it is given" in finding.to_do


def test_a_loaded_network_that_is_elsewhere_is_found(tmp_path):
    """A factory that does not look at the device it is given; here that can only be "meta"."""
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    shape, prediction, data_range, sigma_range = (2,), 'denoised', (-1, 1), (0.1, 10)\n"
        "def make(device, dtype):\n"
        "    return Net(2, 2, device='meta')\n"
    )
    shape, network = load(Check(model=f"{tmp_path / 'net.py'}:make"), LocalWorld())
    assert shape == (2,)
    facts = collect(LocalWorld(), "cpu", network=network)
    assert "its network uses meta" in named(judge([facts], False), "network").found


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_gpu_where_one_was_asked_for(world):
    finding = named(quick_check(Settings(device="cuda"), world), "device")
    assert finding.level == "fail"
    assert "CUDA_VISIBLE_DEVICES" in finding.to_do


# ---- memory --------------------------------------------------------------------------------------


def test_states_that_do_not_fit(world, mixture_file):
    path = world.share(mixture_file)
    huge = Settings(model=f"gmm:{path}", samples=10**15)
    with pytest.raises(InputError, match=r"need at least .* fewer --samples"):
        refuse_or_warn(huge, world)


def test_check_counts_the_memory_of_the_slices(world, mixture_file, capfd):
    path, slices = world.share(mixture_file), world.size
    given = Check(model=f"gmm:{path}", samples=10**15, slices=slices, out=Path(path).parent)
    assert check(given, lambda _: world) == 2
    if world.rank == 0:
        assert row(capfd.readouterr().out, "memory")[0] == "fail"


@pytest.mark.parametrize(
    ("given", "points"),
    [
        ({"method": "window", "window": 10}, 10),
        ({"method": "window", "window": 500}, 200),
        ({"method": "parataa"}, 100),
        ({"method": "piadm", "slices": 8}, 25),
        ({"method": "piadm", "schedule": "diagonal"}, 200),
    ],
)
@pytest.mark.parametrize(("solver", "history"), [("ddim", 0), ("dpmpp_2m", 1)])
def test_every_rank_holds_the_points_of_a_window(given, points, solver, history):
    settings = Settings.from_flat(steps=200, solver=solver, **given)
    own = settings.method.extra_tensors
    wanted = (points * (2 * (1 + history + own) + 4) + MORE_STATES) * 7
    assert [held_of(settings, 7, ranks) for ranks in (1, 4)] == [wanted, wanted]


def test_states_that_hardly_fit(rank):
    assert named(judge([rank(needed=9 * 10**8)], True), "memory").level == "warn"
    assert named(judge([rank(needed=10**8)], True), "memory").level == "ok"


def test_memory_of_a_shared_gpu_is_counted_once(rank):
    ranks = [
        rank(n, device="cuda:0", uuid=GPU, device_free=10**9, needed=6 * 10**8) for n in range(2)
    ]
    finding = named(judge(ranks, True), "memory")
    assert finding.level == "fail"
    assert "cuda:0 of h1 need at least 1.2 GB; 1 GB are free" in finding.found


def test_a_model_is_measured_by_its_files(mixture_file, tmp_path):
    assert peek(f"gmm:{mixture_file}")[1] == (1, 3, 2)
    weights, shape = peek(None)
    assert weights > 10**5
    assert shape == (1, 28, 28)
    assert peek(str(tmp_path)) == peek("gmm:/nowhere.npz") == peek("a:b") == (0, ())
    assert free_memory() > 10**7


# ---- messages ------------------------------------------------------------------------------------


def test_pairs_are_of_hosts():
    hosts = ["a", "a", "b", "b", "c"]
    assert messages.pairs(hosts) == [(0, 1), (0, 2), (0, 4), (2, 4)]
    many = [str(n) for n in range(9)]
    assert messages.pairs(many) == [(0, n) for n in range(1, 9)]
    assert messages.pairs(["a"]) == []


def test_data_that_comes_back_changed_is_a_fail():
    finding = messages.judge_speed(0, 1, ["a", "b"], messages.Timed(1e-5, 1e-3, False))
    assert finding.level == "fail"
    assert "changed" in finding.found


def test_a_slow_network_is_a_warning():
    slow = messages.Timed(0.05, 1.0, True)
    assert messages.judge_speed(0, 1, ["a", "b"], slow).level == "warn"
    assert messages.judge_overlap("a", "b", (0.3, 0.25)).level == "warn"
    assert messages.judge_overlap("a", "b", (0.3, 0.01)).level == "ok"


@pytest.mark.mpi(min_size=2)
def test_messages_are_timed_and_compared():
    world = open_world("mpi")
    found = world.talk()
    hosts = [f"h{min(rank, 2)}" for rank in range(world.size)]
    rows = list(messages.speed(found, hosts))
    assert len(rows) == len(messages.pairs(hosts))
    assert all("us one way" in finding.found for finding in rows)
    (finding,) = messages.overlap(found, hosts)
    assert "from h0 to h1 while the sender computes 200 ms" in finding.found


@pytest.mark.mpi(min_size=2)
def test_changed_data_is_noticed(monkeypatch):
    world = open_world("mpi")
    if world.rank == 1:
        monkeypatch.setattr(Talk, "send", spoil(Talk.send))
    finding = next(messages.speed(world.talk(), ["h"] * world.size))
    assert finding.level == "fail"
    assert "changed" in finding.found


def spoil(send):
    def spoilt(self, buffer, to, tag=0):
        send(self, buffer + 1, to, tag)

    return spoilt


@pytest.mark.mpi(min_size=2)
def test_messages_that_do_not_arrive(monkeypatch, hurried):
    """Rank 1 receives from nobody; the ranks still come together, and nothing hangs."""
    world = open_world("mpi")

    def deaf(self, buffer, source):
        time.sleep(talk.PATIENCE / 3)
        raise Silence([])

    if world.rank == 1:
        monkeypatch.setattr(Talk, "receive", deaf)
    end = world.talk()
    finding = next(messages.speed(end, ["h"] * world.size))
    assert finding.level == "fail"
    assert "do not arrive" in finding.found
    assert end.cut_off == (world.rank == 0)
    world.barrier()
    if world.rank == 1:  # take in what rank 0 has sent, so that MPI can end
        end.wait(end.start_receive(talk.pattern(1), 0))


@pytest.mark.alone
def test_a_rank_that_does_not_answer_is_named_and_all_end():
    act = (
        "import os, sys, time; from pint_diffusion.commands.check import command; "
        "from pint_diffusion.runtime import talk; talk.PATIENCE = 4.0; "
        "late = os.environ['PMI_RANK'] == '2'; "
        "command.clocks = lambda *_: time.sleep(100) if late else []; "
        "from pint_diffusion.commands.cli import main; sys.exit(main(['check']))"
    )
    ended = launch(program=["-c", act], ranks=3, timeout=40)
    assert ended.code != 0
    assert "rank(s) 2 did not answer rank 0" in row(ended.out, "silence")[1]


# ---- GPU-aware MPI -------------------------------------------------------------------------------


@pytest.fixture
def mpi_pair():
    world = open_world("mpi")
    ranks = [
        dataclasses.replace(one, uuid=f"{GPU}{one.rank}")
        for one in world.gather(collect(world, "cpu"))
    ]
    return world.talk(), ranks


@pytest.mark.mpi(min_size=2)
def test_this_library_does_not_claim_to_be_gpu_aware_and_nothing_is_sent(mpi_pair, monkeypatch):
    if gpu_aware.claims(mpi_pair[0]):
        pytest.skip("a GPU-aware MPI")
    monkeypatch.setattr(gpu_aware, "exchange", None)
    (finding,) = gpu_aware.gpu_aware(*mpi_pair)
    assert finding.found.startswith("no;")


@pytest.mark.mpi(min_size=2)
def test_a_claim_is_tested_by_a_tensor(mpi_pair, monkeypatch):
    monkeypatch.setattr(gpu_aware, "claims", lambda talk: "a query function")
    (finding,) = gpu_aware.gpu_aware(*mpi_pair)
    assert finding.level == "ok"
    assert "arrived unchanged" in finding.found


@pytest.mark.mpi(min_size=2)
def test_a_false_claim_is_found_out(mpi_pair, monkeypatch):
    monkeypatch.setattr(gpu_aware, "claims", lambda talk: "a query function")
    if mpi_pair[0].rank == 0:
        monkeypatch.setattr(torch, "arange", lambda n, **kind: torch.ones(n))
    (finding,) = gpu_aware.gpu_aware(*mpi_pair)
    assert finding.level == "warn"
    assert "arrived changed" in finding.found


# ---- clocks --------------------------------------------------------------------------------------


@pytest.mark.mpi(min_size=2)
def test_a_clock_that_is_wrong(monkeypatch):
    world = open_world("mpi")
    true = time.time
    if world.rank == 1:
        monkeypatch.setattr(time, "time", lambda: true() + 0.5)
    rows = list(clocks.clocks(world.talk(), [f"h{rank}" for rank in range(world.size)]))
    assert len(rows) == world.size - 1
    assert rows[0].level == "warn"
    assert rows[0].found.startswith("h1 is +")
    assert 400 < float(rows[0].found.split("+")[1].split(" ms")[0]) < 600
    assert "chrony" in rows[0].to_do


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def look(world, tmp_path):
    """Check a folder, one of rank 0's if none is given."""

    def look(out=None):
        folder = out or Path(world.share(tmp_path))
        rows = list(files.files(world.talk(), folder, ["h"] * world.size, 0))
        world.barrier()
        assert folder.parent != Path("/proc") and not list(folder.glob(".pint-check*"))  # noqa: PT018
        return rows

    return look


def test_a_good_folder(world, look):
    rows = look()
    assert {finding.level for finding in rows} == {"ok"}
    assert ("shared folder" in [finding.name for finding in rows]) == (world.size > 1)


def test_a_folder_that_cannot_be_written(look):
    """Root may write anywhere but in /proc."""
    finding = named(look(Path("/proc")), "--out")
    assert finding.level == "fail"
    assert "can't write in /proc" in finding.found


def test_a_folder_that_a_run_will_make_and_one_that_is_mistyped(world, tmp_path, look):
    folder = Path(world.share(tmp_path))
    assert {finding.level for finding in look(folder / "run")} == {"ok"}
    finding = named(look(folder / "tpyo" / "run"), "--out")
    assert finding.level == "warn"
    assert f"would be made in {folder}" in finding.found


@pytest.mark.mpi(min_size=2)
def test_a_folder_of_each_ranks_own(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "VISIBLE_WITHIN", 0.2)
    world = open_world("mpi")
    own = Path(world.share(tmp_path)) / str(world.rank)
    own.mkdir()
    monkeypatch.chdir(own)
    rows = list(files.files(world.talk(), Path("."), ["h"] * world.size, 0))
    finding = named(rows, "shared folder")
    assert finding.level == "fail"
    assert f"rank 1 on h, in {own.parent / '1'}, does not see" in finding.found


def test_files_that_cannot_be_locked(look, monkeypatch):
    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    finding = named(look(), "file locks")
    assert finding.level == "warn"
    assert "No locks available" in finding.found


def test_a_full_and_a_slow_disk():
    there = files.Tried("/a", seconds=3.0, free=100)
    assert (
        "--keep final"
        in named(files.judge_files(Path("/a"), ["h"], [there], [], 1000), "files").to_do
    )
    slow = named(files.judge_files(Path("/a"), ["h"], [there], [], 0), "files")
    assert slow.level == "warn"


# ---- all of it -----------------------------------------------------------------------------------


def test_the_table_ends_in_a_verdict_and_says_what_to_do():
    rows = [Finding("a", "ok", "good"), Finding("long name", "fail", "bad", "mend it")]
    assert table(rows).splitlines() == [
        "ok    a          good",
        "fail  long name  bad",
        "                 -> mend it",
        "",
        "wrong: 1",
    ]


def test_a_run_warns_in_one_line_and_runs(mixture_file, tmp_path):
    given = [
        "--model",
        f"gmm:{mixture_file}",
        "--steps",
        64,
        "--slices",
        8,
        "--out",
        tmp_path / "o",
    ]
    ended = launch("sample", *given, environment={"OMP_NUM_THREADS": "640"})
    assert ended.code == 0, ended
    told = [line for line in ended.err.splitlines() if "warning" in line]
    assert len(told) == 1
    assert "OMP_NUM_THREADS is 640" in told[0]


def test_a_run_without_room_is_refused_before_anything_is_loaded(mixture_file, tmp_path):
    given = ["--model", f"gmm:{mixture_file}", "--samples", 10**15, "--out", tmp_path / "o"]
    ended = launch("sample", *given, ranks=2)
    assert ended.code == 2, ended
    assert ended.err.count("error: 2 rank(s) on") == ended.err.count("error") == 1


@pytest.mark.alone
def test_the_quick_part_is_quick():
    world, settings = LocalWorld(), Settings()
    quick_check(settings, world)
    start = time.perf_counter()
    quick_check(settings, world)
    assert time.perf_counter() - start < 0.05


@pytest.mark.parametrize("given", [["--sample", 3], ["--samples", 0], ["--device", "tpu"]])
def test_bad_flags(given, capsys):
    from pint_diffusion.commands.cli import main

    assert main(["check", *map(str, given)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pint-diffusion: error: ")
    assert given[0] in line
