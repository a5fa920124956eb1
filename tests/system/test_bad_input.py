"""Bad input gets one sentence and exit code 2, on one rank and on four, and never a traceback."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import networks
from helpers.launch import launch

import pint_diffusion as pd
from pint_diffusion.commands.cli import main


def mixture(folder, name="m.npz", **changes):
    arrays = {
        "means": np.zeros((2, 3)), "variances": np.array([0.1, 0.2]), "weights": np.full(2, 0.5)
    } | changes  # fmt: skip
    np.savez(folder / name, **{k: v for k, v in arrays.items() if v is not None})
    return f"gmm:{folder / name}"


def factory(folder, body):
    (folder / "net.py").write_text(f"def make(device, dtype):\n    {body}\n")
    return f"{folder / 'net.py'}:make"


def large_network(folder, shape):
    """A network that would be called, if its states did not take more memory than there is."""
    made = "__import__('types').SimpleNamespace"
    facts = f"shape={shape}, prediction='flow', data_range=(-1, 1)"
    return factory(folder, f"return type('Large', ({made},), {{'__call__': None}})({facts})")


def packed(folder):
    """A mixture whose arrays are said to be larger than any memory."""
    path = folder / "packed.npz"
    mixture(folder, "packed.npz")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        sizes = [one.file_size for one in file.infolist()]
    at = content.index(b"PK\1\2")
    assert content[at + 24 : at + 28] == sizes[0].to_bytes(4, "little")
    # the true size is in the extra field of large files
    name = int.from_bytes(content[at + 28 : at + 30], "little")
    extra = (1).to_bytes(2, "little") + (8).to_bytes(2, "little") + (10**15).to_bytes(8, "little")
    content[at + 24 : at + 28] = b"\xff" * 4
    content[at + 30 : at + 32] = len(extra).to_bytes(2, "little")
    content[at + 46 + name : at + 46 + name] = extra
    end = content.index(b"PK\5\6")
    size = int.from_bytes(content[end + 12 : end + 16], "little") + len(extra)
    content[end + 12 : end + 16] = size.to_bytes(4, "little")
    path.write_bytes(content)
    return f"gmm:{path}"


def config(text):
    """The flag for a YAML file with a text."""
    return lambda f: [(f / "c.yaml").write_text(text)] and ["--config", f / "c.yaml"]


def special(flag, kind):
    """A flag with what is no regular file."""

    def arguments(f):
        path = f / "special"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            here = os.getcwd()
            os.chdir(f)  # the name of a socket is short
            with socket.socket(socket.AF_UNIX) as one:
                one.bind("special")
            os.chdir(here)
        elif kind == "folder":
            path.mkdir()
        else:
            path = kind
        return [flag, path]

    return arguments


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
    "a device as config": (special("--config", "/dev/zero"), "it is a device, and must be a file"),
    "a named pipe as config": (special("--config", "pipe"), "it is a named pipe, and must be"),
    "a socket as config": (special("--config", "socket"), "it is a socket, and must be a file"),
    "a folder as config": (special("--config", "folder"), "it is a folder, and must be a file"),
    "a named pipe as grid": (special("--grid", "pipe"), "it is a named pipe, and must be a file"),
    "a device as grid": (special("--grid", "/dev/zero"), "it is a device, and must be a file"),
    "a named pipe as a mixture": (
        lambda f: [os.mkfifo(f / "pipe")] and ["--model", f"gmm:{f}/pipe"], "no such file"
    ),
    "a named pipe as a solver": (
        lambda f: [os.mkfifo(f / "pipe.py")] and ["--solver", f"{f}/pipe.py:Mine"],
        "it is a named pipe, and must be a file",
    ),
    "a config beyond what is read": (config("# " + "x" * 16_000_000), "more than 16 MB"),
    "a grid beyond what is read": (
        lambda f: [(f / "g.yaml").write_text("# " + "x" * 16_000_000)]
        and ["--grid", f / "g.yaml"],
        "more than 16 MB",
    ),
    "YAML of aliases": (
        config("a: &a [1, 1]\nb: &b [*a, *a, *a]\nbounds: [*b, *b]\n"), "line 2: the alias *a"
    ),
    "YAML that is nested deeply": (config("bounds: " + "[" * 100_000), "line 1: it is nested in"),
    "YAML with a tag": (config("steps: 4\nseed: !!python/name:os.system\n"), "line 2: the tag"),
    "yes for a number": (config("seed: 1\nsteps: yes\n"), "c.yaml, line 2: --steps is 'yes'"),
    "true for a number": (
        config("method:\n  name: parareal\n  slices: true\n"),
        "c.yaml, line 3: --slices is True, but must be a valid integer",
    ),
    "text for a number": (config('steps: "6"\n'), "line 1: --steps is '6', but must be a valid"),
    "a fraction for a whole number": (config("steps: 6.0\n"), "line 1: --steps is 6.0, but must"),
    "a leading zero": (config("steps: 010\n"), "line 1: --steps is '010', but must be a valid"),
    "true among numbers": (config("labels: [0, true]\n"), "line 1: --labels is [0, True], but"),
    "true for a coarse number": (
        config("coarse: {steps: true}\n"), "line 1: --coarse-steps is True, but must be"
    ),
    "a number for a boolean": (config("warmup: 1\n"), "line 1: --warmup is 1, but must be"),
    "a key twice": (
        config("steps: 6\nseed: 1\nsteps: 7\n"), "line 3: 'steps' is there twice, first in line 1"
    ),
    "a key twice inside": (
        config("coarse:\n  steps: 1\n  steps: 2\n"), "line 3: 'steps' is there twice, first in"
    ),
    "a grid with a key twice": (
        lambda f: [(f / "g.yaml").write_text("t: [900, 20]\nt: [900, 20, 3]\n")]
        and ["--grid", f / "g.yaml"],
        "line 2: 't' is there twice",
    ),
    "a grid with yes": (
        lambda f: [(f / "g.yaml").write_text("t: [900, yes, 3]\n")] and ["--grid", f / "g.yaml"],
        "has 'yes' under t, which is no number",
    ),
    "a network beyond the memory": (
        lambda f: ["--model", large_network(f, (10**6, 10**6)), "--samples", 2],
        "--samples 2 of shape (1000000, 1000000) needs at least",
    ),
    "a window beyond the memory": (
        lambda f: [
            *("--model", large_network(f, (10**7,)), "--samples", 10_000, "--steps", 100),
            *("--method", "window", "--window", 100),
        ],
        "are free on",
    ),
    "more samples than fit": (lambda f: ["--samples", 10**14], "PB; "),
    "more corrections than fit": (
        lambda f: ["--method", "piadm", "--corrector-steps", 10**9, "--solver", "ou_ode"],
        "--corrector-steps 1000000000 makes",
    ),
    "a mixture that unpacks into more than there is": (
        lambda f: ["--model", packed(f)], "packed.npz needs at least 1 PB"
    ),
    "an output that is a file": (
        lambda f: [(f / "file").write_text("")] and ["--out", f / "file"], "file is a file: give"
    ),
    "an output that is a named pipe": (special("--out", "pipe"), "is a named pipe: give another"),
    "a name of no file": (lambda f: ["--out", "a\0b"], "--out is 'a\\x00b', which no file"),
    "a name that is too long": (lambda f: ["--out", "x" * 300], "names of at most 255 bytes"),
    "a name of two lines": (lambda f: ["--model", "one\ntwo"], "one\\ntwo"),
    "a number of 5000 digits": (lambda f: ["--samples", "9" * 5000], "--samples is"),
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
        "c.yaml, line 1: --method is {'window': 4}, but must be a name",
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


GARBAGE = {
    "a rank that is no number": {"PMI_RANK": "abc", "PMI_SIZE": "4"},
    "a rank alone": {"PMI_RANK": "abc"},
    "a size below 0": {"PMI_RANK": "0", "PMI_SIZE": "-1"},
    "a size of 0": {"PMI_RANK": "0", "PMI_SIZE": "0"},
    "a rank of others": {"OMPI_COMM_WORLD_RANK": "4", "OMPI_COMM_WORLD_SIZE": "4"},
    "a digit that is no figure": {"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "\u00b2"},
    "a task that is no number": {"SLURM_PROCID": "zz"},
    "a number of tasks that is empty": {"SLURM_STEP_NUM_TASKS": "", "SLURM_STEP_ID": "0"},
    "threads that are no number": {"OMP_NUM_THREADS": "abc"},
    "no threads": {"OMP_NUM_THREADS": "4,0"},
}


@pytest.mark.parametrize("command", ["sample", "check", "inspect"])
@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_in_the_environment_is_one_sentence(tmp_path, capfd, case, command):
    out = ["--out", str(tmp_path / "out")] if command != "inspect" else [str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in GARBAGE[case].items():
            patch.setenv(name, value)
        code = main([command, *out])
    lines = capfd.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == (case != "a rank of others"), lines
    if lines:
        assert any(f"variable {name} is" in lines[0] for name in GARBAGE[case])
    assert not (tmp_path / "out").exists()


def test_garbage_in_the_environment_of_four_ranks_is_said_once(tmp_path):
    act = (
        "import os, sys; from pint_diffusion.commands.cli import main; "
        "os.environ['PMI_RANK'] = 'abc'; sys.exit(main(['sample', *sys.argv[1:]]))"
    )
    given = ["--model", mixture(tmp_path), "--out", tmp_path / "out"]
    ended = launch(*given, ranks=4, program=["-c", act])
    assert ended.code == 2, ended
    assert ended.err.count("\n") == ended.err.count("PMI_RANK is 'abc'") == 1, ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ranks", [1, 4])
def test_pictures_are_drawn_whatever_backend_the_environment_names(tmp_path, ranks):
    given = ["--model", mixture(tmp_path), "--steps", 6, "--samples", 2, "--slices", 4]
    nonsense = {"MPLBACKEND": "nonsense"}
    out = tmp_path / "out"
    ended = launch("sample", *given, "--out", out, ranks=ranks, environment=nonsense)
    assert ended.code == 0, ended
    for name in ("samples", "refinement", "wavefront"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_known_backend_stays_that_of_the_program():
    act = (
        "from pint_diffusion.report.figure import new_figure; new_figure(); "
        "import matplotlib, os; print(matplotlib.get_backend(), os.environ['MPLBACKEND'])"
    )
    ended = launch(program=["-c", act], environment={"MPLBACKEND": "svg"})
    assert ended.out.split() == ["svg", "svg"], ended


@pytest.mark.parametrize("below", ["", "/run"])
def test_check_and_every_other_command_refuse_a_file_as_folder_in_the_same_sentence(
    tmp_path, capfd, below
):
    model = mixture(tmp_path)
    (tmp_path / "file").write_text("")
    out = f"{tmp_path}/file{below}"
    run = ["--model", model, "--steps", "4", "--samples", "1"]
    assert main(["sample", *run, "--out", str(tmp_path / "good")]) == 0
    said = {}
    for command, given in {
        "sample": [*run, "--out", out],
        "compare": [*run, "--out", out],
        "export": [str(tmp_path / "good"), "--out", out],
    }.items():
        capfd.readouterr()
        assert main([command, *given]) == 2
        said[command] = capfd.readouterr().err.removeprefix("pint-diffusion: error: ").rstrip()
    assert len(set(said.values())) == 1, said
    assert main(["check", "--out", out]) == 2
    table = capfd.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("fail  --out"))
    advice = table.splitlines()[table.splitlines().index(row) + 1]
    found = row.removeprefix("fail  --out").strip()
    assert f"{found}: {advice.removeprefix('->').strip().removeprefix('-> ')}" == said["sample"]
    assert table.rstrip().endswith("wrong: 1")


def test_a_network_beyond_the_memory_is_refused_to_the_library_too():
    class Large:
        shape, prediction, data_range = (10**6, 10**6), "flow", (-1.0, 1.0)

        def __call__(self, x, t, alpha_bar):
            raise AssertionError("it is never called")

    with pytest.raises(pd.InputError, match="shape \\(1000000, 1000000\\) needs at least") as error:
        pd.sample(Large(), steps=4, comm=None)
    assert error.value.field == "samples"
    Large.shape = (3,)
    with pytest.raises(pd.InputError, match="`steps` 1000001 makes"):
        pd.sample(Large(), steps=1_000_001, comm=None)


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
