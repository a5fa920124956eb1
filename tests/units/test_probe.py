"""Networks are tried before a run: an answer that depends on more than its row is refused."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from helpers.checkpoints import CPU, tell, tiny_network
from helpers.dependent import DEPENDENT, Holds, Layers, Made, seeded, smooth
from helpers.networks import (
    Contraction,
    edm,
    flow,
    labelled,
    labelled_with_variance,
    mixture,
    stiff,
)

import pint_diffusion as pd
from pint_diffusion.build import probe
from pint_diffusion.build.agreement import odd_one
from pint_diffusion.build.plan import Sampling, make_plan
from pint_diffusion.errors import InputError, NetworkError
from pint_diffusion.models import digest
from pint_diffusion.models.conditional import condition
from pint_diffusion.models.contents import contents, put_into_evaluation_mode
from pint_diffusion.models.digest import checksum, weights_of
from pint_diffusion.runtime.world import LocalWorld

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def tried(network, samples=3, batching="auto", dtype=torch.float32, **more):
    """Try a network as before a run."""
    asked = Sampling(network, samples=samples, batching=batching, dtype=dtype, steps=12, **more)
    probe.refuse_dependent_rows(make_plan(asked, 1), LocalWorld())


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("samples", [1, 3, 16])
@pytest.mark.parametrize("case", DEPENDENT)
def test_an_answer_that_depends_on_more_than_its_row_is_refused(case, samples):
    answer, told = DEPENDENT[case]
    with pytest.raises(InputError) as refused:
        tried(Made(answer), samples)
    said = tell(refused)
    assert told in said
    assert "`trust_rows`" in said
    assert refused.value.field == "trust_rows"


@pytest.mark.parametrize("case", DEPENDENT.keys() - {"counted"})
def test_it_is_refused_too_where_every_call_has_the_same_number_of_rows(case):
    with pytest.raises(InputError, match=DEPENDENT[case][1]):
        tried(Made(DEPENDENT[case][0]), 4, "off")


def test_without_batching_rows_may_depend_on_their_number():
    """All calls have as many."""
    tried(Made(DEPENDENT["counted"][0]), 4, "off")


@pytest.mark.parametrize("case", ["mean", "numbered", "noisy"])
def test_a_network_with_labels_is_refused_too(case):
    class Classes(Made):
        classes = 3

        def __call__(self, x, t, alpha_bar, labels):
            return super().__call__(x, t, alpha_bar) + 0.1 * labels.view(-1, 1, 1, 1)

    for batching in ("auto", "off")[: 1 if case == "numbered" else 2]:
        with pytest.raises(InputError, match="`trust_rows`"):
            tried(condition(Classes(DEPENDENT[case][0]), None, 5, 1.0), 5, batching)


def test_the_network_of_coarse_steps_is_tried_too():
    fine, coarse = Made(lambda x, t, c: smooth(x, t)), Made(DEPENDENT["mean"][0])
    with pytest.raises(InputError, match="the coarse network answers a row"):
        pd.sample(fine, pd.Parareal(slices=4), steps=12, coarse=coarse)
    pd.sample(fine, pd.Parareal(slices=4), steps=12, coarse=coarse, trust_rows=True)


@pytest.mark.parametrize("door", [pd.sample, lambda *a, **k: list(pd.iterate(*a, **k))])
def test_the_door_refuses_at_once_and_takes_it_on_trust(door):
    network = Made(DEPENDENT["mean"][0])
    with pytest.raises(InputError, match="`trust_rows`"):
        door(network, steps=8)
    network.calls = 0
    door(network, pd.Sequential(), steps=8, trust_rows=True)
    assert network.calls == 8


# ---------------------------------------------------------------- what is not


def guided(network, **more):
    return lambda samples: condition(network, None, samples, 2.0, **more)


DDPM = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 1000}


def unet(dtype, scheduler=DDPM, **changes):
    return pd.from_diffusers(tiny_network(**changes).to(dtype), scheduler)


def bundled(dtype):
    return lambda samples: pd.load_denoiser(dtype=dtype)


def prompted(dtype):
    class Prompted(torch.nn.Module):
        def forward(self, x, t, prompt):
            return x.tanh() + rows(prompt).to(x)

    def rows(prompt):
        return prompt.view(-1, 1, 1, 1)

    return lambda samples: pd.from_diffusers(
        Prompted(), DDPM, shape=(1, 4, 4), prompt=torch.arange(samples)
    )


def autocast(x, t):
    """Rounds to three digits inside, and does not say so."""
    with torch.autocast("cpu", torch.bfloat16):
        return deep(x.float(), t).to(x.dtype)


def deep(x, t):
    draw = torch.Generator().manual_seed(3)
    y = x.flatten(1)
    for _ in range(8):
        y = torch.tanh(y @ (0.6 * torch.randn(16, 16, generator=draw)).to(y) + 0.1)
    return y.view_as(x).float()


class Whole(Made):
    """Takes as many rows as there are samples, or twice as many, as a compiled engine may."""

    def __init__(self, answer, samples):
        super().__init__(answer)
        self.samples = samples

    def __call__(self, x, t, alpha_bar):
        if len(x) not in (self.samples, 2 * self.samples):
            raise RuntimeError("no engine for so many rows")
        return super().__call__(x, t, alpha_bar)


def answers(answer):
    return lambda dtype: lambda samples: Made(lambda x, t, c: answer(x, t))


def nearest(x, t):
    """Piecewise constant, as of a table that is looked up."""
    points = torch.linspace(-1, 1, 7).to(x)
    return points[(x[..., None] - points).abs().argmin(dim=-1)]


SOUND = {
    "bundled": bundled,
    "mixture": lambda dtype: lambda samples: mixture(CPU, dtype),
    "stiff mixture": lambda dtype: lambda samples: stiff(dtype=dtype),
    "contraction": lambda dtype: lambda samples: Contraction(),
    "edm": lambda dtype: lambda samples: edm(CPU, dtype),
    "flow": lambda dtype: lambda samples: flow(CPU, dtype),
    "classes": lambda dtype: guided(labelled(CPU, dtype)),
    "rescaled": lambda dtype: guided(labelled(CPU, dtype), rescale=0.5),
    "learned": lambda dtype: guided(labelled_with_variance(CPU, dtype)),
    "U-Net": lambda dtype: lambda samples: unet(dtype),
    "U-Net, flow": lambda dtype: (
        lambda samples: unet(dtype, {"_class_name": "FlowMatchEulerDiscreteScheduler"})
    ),
    "U-Net, EDM": lambda dtype: lambda samples: unet(dtype, {"_class_name": "EDMEulerScheduler"}),
    "U-Net, learned": lambda dtype: lambda samples: unet(dtype, out_channels=2),
    "U-Net, classes": lambda dtype: guided(unet(dtype, num_class_embeds=4), null_class=3),
    "prompts": prompted,
    "zeros": answers(lambda x, t: 0 * x),
    "constant": answers(lambda x, t: torch.full_like(x, 0.3)),
    "all but nothing": answers(lambda x, t: 1e-9 * x + ((x + 300) - 300 - x)),
    "sign": answers(lambda x, t: torch.sign(x)),
    "nearest": answers(nearest),
    "steep": answers(lambda x, t: torch.tanh(1e4 * deep(x, t)).to(x.dtype)),
    "deep": answers(lambda x, t: deep(x, t).to(x.dtype)),
    "autocast": answers(autocast),
    "whole calls only": lambda dtype: lambda samples: Whole(lambda x, t, c: smooth(x, t), samples),
    "evaluation mode": lambda dtype: lambda samples: Holds(call=seeded().eval().to(dtype)),
}


SLOW = ("bundled", torch.float64)


@pytest.mark.parametrize(
    ("case", "dtype"), [pair for pair in product(SOUND, DTYPES) if pair != SLOW], ids=str
)
def test_no_sound_network_is_refused(case, dtype):
    make = SOUND[case](dtype)
    for samples in (2,) if case == "bundled" else (1, 2, 5):
        network = make(samples)
        for batching in ("auto", "off"):
            tried(network, samples, batching, dtype)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_kernels_that_round_in_another_way_are_told_from_dependence(bits):
    """Large calls round to few bits, whatever the dtype says; four calls are needed to see why."""

    def rounding(x, t, calls):
        step = 0.5**bits if len(x) > 5 else 1e-12
        return torch.round(smooth(x, t) / step) * step

    network = Made(rounding)
    tried(network, 5)
    assert network.calls == 4


# ---------------------------------------------------------------- what it costs


@pytest.mark.parametrize("samples", [1, 3, 20])
def test_a_network_is_called_twice_and_then_remembered(samples):
    network = Made(lambda x, t, c: smooth(x, t))
    given = {"steps": 10, "samples": samples}
    for calls in (12, 10, 10):
        network.calls = 0
        run = pd.sample(network, pd.Sequential(), **given)
        assert network.calls == calls
        assert run.evaluations == run.network_calls == 10
    pd.sample(network, pd.Sequential(), **given, batching="off")  # what no call has had so far
    assert network.calls == 22


def test_a_network_that_is_remembered_is_let_go():
    network = Made(lambda x, t, c: smooth(x, t))
    pd.sample(network, steps=4)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_a_network_that_can_not_be_remembered_is_tried_again():
    class Slots(Made):
        __hash__ = None

    network = Slots(lambda x, t, c: smooth(x, t))
    for _ in range(2):
        network.calls = 0
        pd.sample(network, pd.Sequential(), steps=10)
        assert network.calls == 12


# ---------------------------------------------------------------- what fails is left to the run


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda x, t, c: x * float("nan"), NetworkError),
        (lambda x, t, c: x[:1, :, :2], NetworkError),
        (lambda x, t, c: 1 / 0, pd.PintError),
    ],
    ids=["NaN", "shape", "exception"],
)
def test_a_network_that_fails_ends_as_the_run_ends(answer, error):
    with pytest.raises(error) as failed:
        pd.sample(Made(answer), steps=8)
    assert not isinstance(failed.value, InputError)
    assert "slice 0, iteration 0, step 0" in str(failed.value)


def test_a_network_that_fails_while_it_is_tried_and_not_in_the_run_is_not_remembered():
    """The states that it is tried with are not those of the walk."""
    network = Made(lambda x, t, c: smooth(x, t) * (float("nan") if c <= 2 else 1))
    for calls in (2 + 5, 2 + 5, 5):  # the two of the second time find nothing wrong
        before = network.calls
        run = pd.sample(network, pd.Sequential(), steps=5, samples=2)
        assert network.calls == before + calls
        assert run.samples.isfinite().all()


# ---------------------------------------------------------------- modes


HIDING = {
    "itself": lambda net: {"call": net},
    "attribute": lambda net: {"net": net, "call": lambda x, t: net(x, t)},
    "list": lambda net: {"nets": [0, [net]], "call": lambda x, t: net(x, t)},
    "mapping": lambda net: {"nets": {"a": net}, "call": lambda x, t: net(x, t)},
    "partial": lambda net: {"call": partial(net)},
    "method": lambda net: {"call": net.forward},
    "closure": lambda net: {"call": lambda x, t: net(x, t)},
    "object": lambda net: {"inner": Holds(inner=Holds(net=net)), "call": lambda x, t: net(x, t)},
}


@pytest.mark.parametrize("hiding", HIDING)
def test_modules_of_a_factory_are_put_into_evaluation_mode_wherever_they_are(hiding, monkeypatch):
    made = []
    monkeypatch.setattr("pint_diffusion.models.factory.load", lambda spec: one)

    def one(device, dtype):
        made.append(seeded())
        return Holds(**HIDING[hiding](made[-1]))

    network = pd.load_denoiser("some:one")
    assert not any(module.training for module in made[-1].modules())
    given = {"steps": 8, "samples": 2, "batching": "off"}
    expected = pd.sample(Holds(call=seeded().eval()), **given)
    assert torch.equal(pd.sample(network, **given).samples, expected.samples)


@pytest.mark.parametrize("hiding", HIDING)
def test_the_door_refuses_a_network_in_training_mode_and_leaves_it_alone(hiding):
    net = seeded()
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    wrong, right = Holds(**HIDING[hiding](net)), Made(lambda x, t, c: smooth(x, t))
    for name, network, coarse in (("network", wrong, None), ("coarse", right, wrong)):
        with pytest.raises(InputError) as refused:
            pd.sample(network, pd.Parareal(slices=2), steps=4, coarse=coarse)
        said = tell(refused)
        assert said.startswith(f"`{name}` can't be sampled from as it is: its Layers")
        assert "BatchNorm2d" in said
        assert "call eval() on it" in said
    assert net.training
    assert all(torch.equal(before[name], weight) for name, weight in net.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "refused"),
    [
        (torch.nn.BatchNorm2d(1), True),
        (torch.nn.SyncBatchNorm(1), True),
        (torch.nn.InstanceNorm2d(1, track_running_stats=True), True),
        (torch.nn.Dropout(0.1), True),
        (torch.nn.RReLU(), True),
        (torch.nn.MultiheadAttention(4, 1, dropout=0.1), True),
        (torch.nn.LSTM(4, 4, 2, dropout=0.1), True),
        (torch.nn.InstanceNorm2d(1), False),
        (torch.nn.GroupNorm(1, 1), False),
        (torch.nn.Dropout(0.0), False),
        (torch.nn.MultiheadAttention(4, 1), False),
        (torch.nn.Conv2d(1, 1, 1), False),
    ],
    ids=str,
)
def test_only_layers_that_act_differently_in_training_are_refused(layer, refused):
    network = Holds(call=lambda x, t: smooth(x, t), held=torch.nn.ModuleList([layer]))
    if refused:
        with pytest.raises(InputError, match=type(layer).__name__):
            pd.sample(network, steps=2)
        layer.eval()
    pd.sample(network, steps=2)


def test_a_circle_and_an_endless_chain_are_walked_to_an_end():
    class Endless:
        @property
        def __dict__(self):
            return {"next": Endless()}

    one = Holds(endless=Endless(), call=None)
    one.itself, one.many = one, [one, {"one": one}]
    assert list(contents(one)) == [("alphas_cumprod", Holds.alphas_cumprod)]


def test_an_exported_graph_which_has_no_modes_is_left_alone():
    class Graph(torch.nn.Module):
        def train(self, mode=True):
            raise NotImplementedError("no modes")

        def forward(self, x, t):
            return smooth(x, t)

    put_into_evaluation_mode(Holds(call=Graph()))
    graph = Graph()
    graph.drop = torch.nn.Dropout(0.5)
    with pytest.raises(InputError, match="can't be put into evaluation mode"):
        put_into_evaluation_mode(Holds(call=graph))


# ---------------------------------------------------------------- digests


FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
BASE = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(5))
KINDS = [
    *(BASE.to(dtype) for dtype in FLOATS),
    *((100 * BASE).to(dtype) for dtype in (torch.int64, torch.int8, torch.uint8)),
    BASE > 0,
    BASE[0, 0, :3].to(torch.bfloat16),
    torch.empty(0, 3),
    torch.tensor(2.5),
    torch.randn(70000, generator=torch.Generator().manual_seed(6)),
]


def kind(one):
    return f"{one.dtype} {tuple(one.shape)}"


@pytest.mark.parametrize("one", KINDS, ids=kind)
def test_a_checksum_is_one_of_values_and_not_of_how_they_lie(one):
    expected = checksum(one).tolist()
    room = torch.zeros(one.numel() + 3, dtype=one.dtype)
    for first in range(3):
        room[first : first + one.numel()] = one.flatten()
        moved = room[first : first + one.numel()].view(one.shape)
        assert checksum(moved).tolist() == expected
    back = [*reversed(range(one.ndim))]
    turned = one.permute(back).contiguous().permute(back)
    assert checksum(turned).tolist() == expected
    assert checksum(one.clone().requires_grad_(one.is_floating_point())).tolist() == expected
    if one.dtype != torch.bfloat16:
        assert checksum(one.numpy()).tolist() == expected


def test_a_checksum_does_not_know_how_many_words_are_summed_at_a_time(monkeypatch):
    """That is another number on other devices."""
    expected = [checksum(one).tolist() for one in KINDS]
    for size in (1000, 2**20):
        monkeypatch.setattr(digest, "CHUNK", size)
        assert [checksum(one).tolist() for one in KINDS] == expected


@pytest.mark.parametrize("one", KINDS, ids=kind)
def test_a_checksum_tells_one_bit_and_two_values_that_changed_places(one):
    raw = one.clone().flatten()
    bits = raw.numpy().view(np.uint8) if one.dtype != torch.bfloat16 else raw.view(torch.uint8)
    for at in range(0, len(bits), max(1, len(bits) // 7)):
        bits[at] ^= 1
        assert checksum(raw).tolist() != checksum(one).tolist()
        bits[at] ^= 1
    assert checksum(raw).tolist() == checksum(one).tolist()
    if one.numel() > 1 and raw[0] != raw[1]:
        raw[[0, 1]] = raw[[1, 0]]
        assert checksum(raw).tolist() != checksum(one).tolist()


def test_all_that_a_network_holds_is_in_its_weights_by_name():
    net = seeded()
    tied = Holds(call=net, again=net, table=np.arange(3), nets=[Layers().half()], text="x")
    names = weights_of(tied)
    assert {"table", "alphas_cumprod", "nets[0].inside.0.weight"} < names.keys()
    assert sum(name.endswith("inside.0.weight") for name in names) == 2
    with torch.no_grad():
        net.inside[1].running_mean += 1e-3
    changed = weights_of(tied)
    (name,) = {name for name in names if names[name] != changed[name]}
    assert name.endswith("inside.1.running_mean")


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ("aaaa", None),
        ("aaba", (2, 0, "most ranks")),
        ("baaa", (0, 2, "most ranks")),
        ("ab", (1, 0, "rank 0")),
        ("aabb", (2, 0, "rank 0")),
        ("abcd", (1, 0, "rank 0")),
        ("abcc", (1, 0, "rank 0")),
        ("abccc", (0, 2, "most ranks")),
        ("a", None),
    ],
)
def test_the_rank_that_differs_is_the_one_that_most_ranks_are_unlike(values, odd):
    assert odd_one(values) == odd
