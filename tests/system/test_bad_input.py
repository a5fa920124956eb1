"""Bad input gets one sentence and exit code 2, on one rank and on four, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import dependent, networks
from helpers.launch import launch

import pint_diffusion as pd
from pint_diffusion.commands.cli import main
from pint_diffusion.runtime.world import open_world
from pint_diffusion.store.master import read_run


def mixture(folder, name="m.npz", **changes):
    arrays = {
        "means": np.zeros((2, 3)), "variances": np.array([0.1, 0.2]), "weights": np.full(2, 0.5)
    } | changes  # fmt: skip
    np.savez(folder / name, **{k: v for k, v in arrays.items() if v is not None})
    return f"gmm:{folder / name}"


def factory(folder, body):
    (folder / "net.py").write_text(f"def make(device, dtype):\n    {body}\n")
    return f"{folder / 'net.py'}:make"


CASES = {
    "unknown flag": (lambda f: ["--stpes", "4"], "--stpes"),
    "unknown model": (lambda f: ["--model", "stable-diffusion"], "stable-diffusion"),
    "path that does not exist": (lambda f: ["--model", f"{f}/no/where"], "no/where"),
    "mixture that does not exist": (lambda f: ["--model", f"gmm:{f}/none.npz"], "none.npz"),
    "not a checkpoint": (lambda f: ["--model", f], "config.json"),
    "unsupported checkpoint": (
        lambda f: [(f / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')]
        and ["--model", f],
        "Flux",
    ),
    "no such factory module": (lambda f: ["--model", "no_such_module:make"], "no_such_module"),
    "no such factory": (
        lambda f: ["--model", factory(f, "pass").replace(":make", ":mak")], "mak"
    ),
    "factory raises": (
        lambda f: ["--model", factory(f, "raise RuntimeError('no weights here')")],
        "no weights here",
    ),
    "factory returns the wrong thing": (lambda f: ["--model", factory(f, "return 3")], "net.py"),
    "mixture without weights": (lambda f: ["--model", mixture(f, weights=None)], "weights"),
    "mis-shaped mixture": (
        lambda f: ["--model", mixture(f, variances=np.ones(3))], "variances"
    ),
    "negative variance": (
        lambda f: ["--model", mixture(f, variances=np.array([0.1, -1]))], "variances"
    ),
    "NaN in a mixture": (
        lambda f: ["--model", mixture(f, means=np.full((2, 3), np.nan))], "means"
    ),
    "not an npz": (
        lambda f: [(f / "m.npz").write_text("hello")] and ["--model", f"gmm:{f}/m.npz"], "m.npz"
    ),
    "fewer steps than slices": (lambda f: ["--steps", 4, "--slices", 8], "--steps"),
    "no slices": (lambda f: ["--slices", 0], "--slices"),
    "more steps than can be": (lambda f: ["--steps", 10**12], "--steps"),
    "two ends of a slice": (
        lambda f: ["--method", "piadm", "--sweeps", 2, "--tolerance", 0.1], "give one of the two"
    ),
    "no samples": (lambda f: ["--samples", 0], "--samples"),
    "bounds that fall": (lambda f: ["--bounds", "0,9,5,20,64"], "boundaries"),
    "bounds and slices that differ": (lambda f: ["--bounds", "0,9,64", "--slices", 8], "bounds"),
    "a tolerance below 0": (lambda f: ["--tolerance", -1], "--tolerance"),
    "tolerance NaN": (lambda f: ["--tolerance", "nan"], "--tolerance"),
    "placement nowhere": (lambda f: ["--placement", "moon"], "--placement"),
    "more threads than cores": (lambda f: ["--threads", 100000], "--threads"),
    "batching of nothing": (lambda f: ["--batching", 0], "--batching"),
    "no CUDA here": (lambda f: ["--device", "cuda"], "--device cuda"),
    "output below a file": (
        lambda f: [(f / "file").write_text("")] and ["--out", f / "file" / "run"], "--out"
    ),
    "output that exists": (
        lambda f: [(f / "old").mkdir(), (f / "old" / "thing").write_text("")]
        and ["--out", f / "old"],
        "--force",
    ),
    "config with an unknown key": (
        lambda f: [(f / "c.yaml").write_text("stpes: 4\n")] and ["--config", f / "c.yaml"], "stpes"
    ),
    "config that does not exist": (lambda f: ["--config", f / "none.yaml"], "none.yaml"),
    "config that is no YAML": (
        lambda f: [(f / "c.yaml").write_text("{")] and ["--config", f / "c.yaml"], "c.yaml"
    ),
    "config with a bad value": (
        lambda f: [(f / "c.yaml").write_text("steps: many\n")] and ["--config", f / "c.yaml"],
        "steps",
    ),
    "an option of another method": (
        lambda f: ["--window", 4],
        "--window is an option of the methods paradigms, parataa and window, and the method is",
    ),
    "no window": (lambda f: ["--method", "paradigms", "--window", 0], "--window"),
    "a sum of increments with a history": (
        lambda f: ["--method", "paradigms", "--solver", "unipc"], "carries a history"
    ),
    "unknown solver": (lambda f: ["--solver", "dpm++"], "dpmpp_2m"),
    "multistep as a coarse solver": (lambda f: ["--coarse-solver", "dpmpp_2m"], "multistep"),
    "eta out of range": (lambda f: ["--eta", 1.5], "--eta"),
    "an option of another solver": (lambda f: ["--solver", "heun", "--eta", 0.5], "--eta"),
    "churn bounds reversed": (
        lambda f: ["--solver", "heun", "--churn", 5, "--churn-min", 9, "--churn-max", 1],
        "--churn-min 9 is above",
    ),
    "negative churn": (lambda f: ["--solver", "heun", "--churn", -5], "--churn"),
    "churn that leaves the schedule": (
        lambda f: ["--solver", "heun", "--churn", 5], "outside the schedule"
    ),
    "no such variance": (lambda f: ["--solver", "ddpm", "--variance", "learned"], "--variance"),
    "a variance that was not learned": (
        lambda f: ["--solver", "ddpm", "--variance", "learned_range"], "has learned its variance"
    ),
    "summed noise of a deterministic solver": (
        lambda f: ["--coarse-noise", "sum"], "draws none"
    ),
    "coarse noise that nobody draws": (
        lambda f: ["--solver", "ddpm", "--coarse-solver", "ddim", "--coarse-noise", "sum"],
        "does not draw",
    ),
    "noise in the coarse steps alone": (lambda f: ["--coarse-solver", "ddpm"], "draws noise"),
    "a coarse model of another shape": (
        lambda f: ["--coarse-model", mixture(f, means=np.zeros((2, 4)))], "--coarse-model"
    ),
    "a coarse model that does not exist": (
        lambda f: ["--coarse-model", f"{f}/no/where"], "no/where"
    ),
    "a coarse model of a shorter schedule": (
        lambda f: [
            "--coarse-model", mixture(f, alphas_cumprod=np.linspace(0.99, 0.1, 10))
        ],
        "--coarse-model",
    ),
    "a grid that is not monotone": (
        lambda f: [(f / "g.yaml").write_text("t: [900, 950, 20, -1]\n")]
        and ["--grid", f / "g.yaml"],
        "g.yaml",
    ),
    "a grid that leaves the schedule": (
        lambda f: [(f / "g.yaml").write_text("t: [1200, 950, 20, -1]\n")]
        and ["--grid", f / "g.yaml"],
        "g.yaml",
    ),
    "a grid made for another network": (
        lambda f: [(f / "g.yaml").write_text("t: [900, 300, 0]\nalpha_bar: [0.01, 0.9, 1]\n")]
        and ["--grid", f / "g.yaml"],
        "another network",
    ),
    "a rho that overflows": (lambda f: ["--spacing", "karras", "--rho", 0.001], "--rho"),
    "history of a solver without": (
        lambda f: ["--no-carry"], "--carry is an option of the solvers deis, "
    ),
    "coarse steps of a method without": (
        lambda f: ["--method", "window", "--coarse-steps", 2], "--coarse-steps is an option of"
    ),
    "an option of two other methods": (
        lambda f: ["--method", "chords", "--slices", 4], "parareal, piadm and sequential"
    ),
    "a class that is not there": (
        lambda f: [(f / "mine.py").write_text("")] and ["--solver", f"{f}/mine.py:Mine"], "mine.py"
    ),
    "a class of another kind": (
        lambda f: [(f / "mine.py").write_text("class Mine: ...")]
        and ["--method", f"{f}/mine.py:Mine"],
        "is no subclass of pint_diffusion.methods.method.Method",
    ),
    "a module that can't be imported": (
        lambda f: ["--coarse-solver", "no_such_module:Mine"], "no_such_module can't be imported"
    ),
    "a method without a name in YAML": (
        lambda f: [(f / "c.yaml").write_text("method: {window: 4}\n")]
        and ["--config", f / "c.yaml"],
        "c.yaml: --method is {'window': 4}, but must be a name",
    ),
    "a flow that starts where sigma is infinite": (
        lambda f: [
            "--model", f"{Path(networks.__file__)}:flow", "--solver", "unipc"
        ],
        "pure noise",
    ),
    "a coarse churn that leaves the schedule": (
        lambda f: [
            *("--spacing", "karras", "--slices", 32, "--solver", "heun"),
            *("--churn", 19, "--churn-max", 120),
        ],
        "coarse solver heun",
    ),
    "a grid of other steps": (
        lambda f: [(f / "g.yaml").write_text("t: [900, 20, -1]\n")]
        and ["--grid", f / "g.yaml", "--steps", 9],
        "--steps",
    ),
    "a sigma outside the schedule": (
        lambda f: ["--spacing", "karras", "--sigma-max", 1e9], "sigma"
    ),
    "reversed sigmas": (
        lambda f: ["--spacing", "karras", "--sigma-max", 1, "--sigma-min", 2], "sigma"
    ),
    "shift of a network that is no flow": (lambda f: ["--shift", 3], "shift"),
    "whole timesteps for more steps than there are": (
        lambda f: ["--whole-timesteps", "--steps", 1500], "timesteps"
    ),
    "guidance for an unconditional network": (lambda f: ["--guidance", 4], "--guidance"),
    "more memory than can be solved for": (
        lambda f: ["--method", "parataa", "--memory", 1000], "--memory"
    ),
    "an order beyond all numbers": (
        lambda f: ["--method", "parataa", "--order", 10**20], "--order"
    ),
    "a tolerance whose square overflows": (
        lambda f: ["--method", "window", "--tolerance", 1e300], "--tolerance"
    ),
    "labels for an unconditional network": (lambda f: ["--labels", "1,2"], "--labels"),
    "batch statistics": (
        lambda f: ["--model", f"{Path(dependent.__file__)}:batchnorm"],
        "answers a row in another way when other rows stand beside it",
    ),
    "a mean over the rows": (
        lambda f: ["--model", f"{Path(dependent.__file__)}:mean", "--batching", "off"],
        "or give --trust-rows to run it as it is",
    ),
    "an answer that depends on the number of its row": (
        lambda f: ["--model", f"{Path(dependent.__file__)}:numbered"], "at another place of a call"
    ),
    "a network with noise of its own": (
        lambda f: ["--model", f"{Path(dependent.__file__)}:noisy"], "in another way each time"
    ),
    "a mean over the rows of the coarse network": (
        lambda f: [
            *("--model", f"{Path(dependent.__file__)}:in_evaluation"),
            *("--coarse-model", f"{Path(dependent.__file__)}:mean"),
        ],
        "the coarse network answers a row in another way when other rows stand beside it",
    ),
}  # fmt: skip
LAUNCHED = (
    "unknown flag",
    "an option of another method",
    "not an npz",
    "multistep as a coarse solver",
)


@pytest.fixture
def bad(tmp_path, world):
    """Make the arguments of a case, on rank 0; and leave torch as it was."""
    threads = torch.get_num_threads()

    def arguments(case):
        folder = Path(world.share(tmp_path))
        given = None
        if world.rank == 0:
            good = ["--model", mixture(folder, "good.npz"), "--out", folder / "out"]
            given = [str(part) for part in (*good, *CASES[case][0](folder))]
        return folder / "out", world.share(given)

    yield arguments
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_exit_code_2_on_every_rank(world, bad, capfd, case):
    if case == "no CUDA here" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    out, given = bad(case)
    assert main(["sample", *given]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    if world.rank == 0:
        assert len(lines) == 1, lines
        assert lines[0].startswith("pint-diffusion: error: ")
        assert CASES[case][1] in lines[0]
    else:
        assert lines == []
    assert not (out / "run.h5").exists()


@pytest.mark.mpi(min_size=4)
@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("on_rank_2", "has other weights than that of most ranks"),
        ("other_code", "answers the same rows in another way than that of most ranks"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "compare"])
def test_a_rank_with_another_network_is_named_before_the_run(
    tmp_path, capfd, command, network, told
):
    world = open_world("mpi")
    out = Path(world.share(tmp_path)) / "out"
    model = f"{Path(dependent.__file__)}:{network}"
    assert main([command, "--model", model, "--steps", "8", "--out", str(out)]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    if world.rank == 0:
        assert len(lines) == 1, lines
        assert f"the network of rank 2 on {world.host} {told}" in lines[0]
    assert not (out / "run.h5").exists()


@pytest.mark.mpi(min_size=4)
@pytest.mark.parametrize("network", ["on_rank_2", "other_code"])
def test_in_a_part_of_the_ranks_the_rank_is_named_as_it_is_numbered_there(network):
    world = open_world("mpi")
    comm = world.comm.Split(world.rank % 2)
    model = getattr(dependent, network)("cpu", torch.float32)
    given = {"steps": 8, "samples": 2, "comm": comm}
    if world.rank % 2:
        assert pd.sample(model, **given).converged
    else:  # 0, 2 and perhaps more
        with pytest.raises(pd.InputError, match="the network of rank 1 on "):
            pd.sample(model, **given)
    comm.Free()


def test_a_factory_in_training_mode_gives_the_samples_of_one_in_evaluation_mode(world, tmp_path):
    """Batch statistics and dropout would change them, and nobody would be told."""
    found = []
    for name in ("in_training", "in_evaluation"):
        out = Path(world.share(tmp_path)) / name
        model = f"{Path(dependent.__file__)}:{name}"
        given = ["--steps", "8", "--slices", str(max(4, world.size)), "--batching", "off"]
        assert main(["sample", "--model", model, *given, "--out", str(out)]) == 0
        world.barrier()
        found.append(read_run(out).samples)
    assert np.array_equal(*found)


def test_rows_that_touch_are_run_on_trust(world, tmp_path):
    out = Path(world.share(tmp_path)) / "out"
    model = f"{Path(dependent.__file__)}:mean"
    given = ["--steps", "8", "--slices", str(max(4, world.size)), "--trust-rows"]
    assert main(["sample", "--model", model, *given, "--out", str(out)]) in (0, 3)


@pytest.mark.alone
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("case", LAUNCHED)
def test_a_launched_job_with_bad_input_ends_so(tmp_path, case, ranks):
    arguments, named = CASES[case]
    given = arguments(tmp_path)
    good = ["--model", mixture(tmp_path, "good.npz"), "--out", tmp_path / "out"]
    ended = launch("sample", *good, *given, ranks=ranks)
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert ended.code == 2, ended
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("pint-diffusion: error: ")
    assert named in lines[0]
    assert ended.seconds < 20
    assert not (tmp_path / "out" / "run.h5").exists()


def test_fewer_slices_than_ranks_is_refused(tmp_path):
    ended = launch(
        "sample", "--model", mixture(tmp_path), "--slices", 3, "--out", tmp_path / "out", ranks=4
    )
    assert ended.code == 2
    assert "3 slices for 4 ranks" in ended.err
    assert ended.err.count("error") == 1


@pytest.mark.parametrize("command", ["sample", "check"])
def test_copies_of_rank_0_of_1_under_a_launcher_are_refused(tmp_path, command):
    """A launcher that does not belong to the MPI library starts N runs of one process."""
    for rank in ("0", "1"):
        pretend = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": rank}
        options = ["--model", mixture(tmp_path), "--out", tmp_path / "out"]
        ended = launch(command, *(options if command == "sample" else []), environment=pretend)
        assert ended.code == 2
        told = "srun started 4 processes but MPI sees 1" in ended.err + ended.out
        assert told == (rank == "0")
    assert not (tmp_path / "out").exists()


def test_a_file_that_one_rank_misses_is_said_once_and_ends_all(tmp_path):
    good = mixture(tmp_path)
    act = (
        "import os, sys; from pint_diffusion.commands.cli import main; "
        "wrong = os.environ.get('PMI_RANK') == '1'; "
        "sys.argv += ['--model', 'gmm:/not/here.npz' if wrong else sys.argv[1]]; "
        "sys.exit(main(['sample', *sys.argv[2:]]))"
    )
    ended = launch(good, "--out", tmp_path / "out", ranks=3, program=["-c", act])
    assert ended.code == 2, ended
    assert ended.err.count("rank 1 on ") == ended.err.count("error") == 1


def test_ranks_that_read_different_settings_are_refused(tmp_path):
    act = (
        "import os, sys; from pint_diffusion.commands.cli import main; "
        "sys.argv += ['--steps', '8' if os.environ.get('PMI_RANK') == '1' else '16']; "
        "sys.exit(main(['sample', *sys.argv[1:]]))"
    )
    given = ["--model", mixture(tmp_path), "--out", tmp_path / "out"]
    ended = launch(*given, ranks=2, program=["-c", act])
    assert ended.code == 2, ended
    assert ended.err.count("rank 1 on") == ended.err.count("has other settings") == 1


def test_a_folder_that_ranks_do_not_share_is_refused_and_the_master_says_so(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    act = (
        "import os, sys; from pint_diffusion.commands.cli import main; "
        "os.environ.get('PMI_RANK') == '1' and os.chdir('elsewhere'); "
        "sys.exit(main(['sample', *sys.argv[1:]]))"
    )
    given = ["--model", mixture(tmp_path), "--out", "run", "--slices", 4]
    ended = launch(*given, ranks=2, program=["-c", act], cwd=tmp_path)
    assert ended.code == 2, ended
    assert ended.err.count("error") == ended.err.count("rank 1 on ") == 1, ended.err
    assert "is not rank 0's folder here" in ended.err
    with h5py.File(tmp_path / "run" / "run.h5") as run:
        assert run.attrs["status"].startswith("failed: rank 1 on ")
    assert not (tmp_path / "run" / "reserve").exists()


def test_help_is_printed_once():
    assert launch("sample", "--help", ranks=2).out.count("usage:") == 1


def test_local_transport_under_a_launcher_is_refused(tmp_path):
    given = ["--model", mixture(tmp_path), "--out", tmp_path / "out", "--transport", "local"]
    ended = launch("sample", *given, ranks=2)
    assert ended.code == 2
    assert ended.err.count("--transport local means one process") == 1


@pytest.mark.parametrize(
    "arguments", [["smaple"], ["export"], ["export", "/nowhere"], ["check", "x"]]
)
def test_other_commands_refuse_bad_input_too(arguments):
    ended = launch(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("pint-diffusion: error: ")
    assert "Traceback" not in ended.err
