"""Laws of the objects that a user makes: methods, solvers, and what else has options."""

from __future__ import annotations

from math import sqrt

import pytest
from pydantic import ValidationError

from pint_diffusion.build.coarse import Coarse
from pint_diffusion.errors import InputError
from pint_diffusion.methods import METHODS, Chords, Parareal, Window
from pint_diffusion.methods.parareal import best_slices, bound
from pint_diffusion.solvers import DDIM, SOLVERS, DPMpp2M, Heun
from pint_diffusion.solvers.langevin import Corrector

KINDS = [*METHODS.values(), *SOLVERS.values(), Coarse, Corrector]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_object_is_frozen_described_and_shows_what_is_not_default(kind):
    one = kind()
    assert repr(one) == f"{kind.__name__}()"
    assert one == kind()
    assert set(kind.stated()) == kind.model_fields.keys()
    for name in kind.stated():
        assert kind.model_fields[name].description, name
        with pytest.raises(ValidationError):
            setattr(one, name, getattr(one, name))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_unknown_option_is_refused_with_those_there_are(kind):
    with pytest.raises(InputError, match=f"`{kind.prefix}no_such_option` is no option of") as error:
        kind(no_such_option=1)
    assert all(f"`{kind.prefix}{name}`" in str(error.value) for name in kind.stated())


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        (Window(8), Window(window=8)),
        (Chords(4), Chords(cores=4)),
        (Heun(8, 0.1), Heun(churn=8, churn_min=0.1)),
        (METHODS["parataa"](8), METHODS["parataa"](window=8)),
        (METHODS["paradigms"](8), METHODS["paradigms"](window=8)),
    ],
    ids=repr,
)
def test_the_first_positional_option_is_the_objects_own(positional, named):
    assert positional == named
    assert repr(positional) == repr(named)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Window(0), "window"),
        (lambda: Window(8, window=8), "window"),
        (lambda: DDIM(eta=2), "eta"),
        (lambda: Heun(churn_min=2, churn_max=1), "churn_min"),
        (lambda: Parareal(tolerance=float("nan")), "tolerance"),
        (lambda: Parareal(placement="moon"), "placement"),
        (lambda: Parareal(slices=3, bounds=(0, 2, 4)), "bounds"),
        (lambda: Parareal(bounds=(0, 2, 4), slicing="logsnr"), "bounds"),
        (lambda: METHODS["piadm"](sweeps=2, tolerance=0.1), "sweeps"),
        (lambda: Corrector(steps=-1), "corrector_steps"),
        (lambda: Coarse(steps=0), "coarse_steps"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_option(make, field):
    with pytest.raises(InputError, match=f"`{field}`") as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Window(True), "`window` is True, but must be a valid integer"),
        (lambda: Window(8.0), "`window` is 8.0, but must be a valid integer"),
        (lambda: Window("8"), "`window` is '8', but must be a valid integer"),
        (lambda: Window("many"), "`window` is 'many', but must be a valid integer"),
        (lambda: Window(tolerance=True), "`tolerance` is True, but must be a valid number"),
        (lambda: Window(tolerance="1e-3"), "`tolerance` is '1e-3', but must be a valid number"),
        (lambda: Parareal(max_iterations=False), "`max_iterations` is False, but must be"),
        (lambda: Parareal(bounds=(0, True)), "`bounds` is \\(0, True\\), but must be a valid int"),
        (
            lambda: Parareal(bounds=[0, "4"]),
            "`bounds` is \\[0, '4'\\], but must be",
        ),
        (lambda: DPMpp2M(carry=1), "`carry` is 1, but must be a valid boolean"),
        (lambda: Coarse(steps=2.0), "`coarse_steps` is 2.0, but must be a valid integer"),
        (lambda: Parareal(slicing="a\0"), "`slicing` is 'a\\\\x00', which no file can be called"),
    ],
)
def test_no_value_is_turned_into_one_of_another_type(make, told):
    with pytest.raises(InputError, match=told):
        make()


def test_whole_numbers_are_numbers_and_lists_are_tuples():
    assert Window(tolerance=1).tolerance == 1.0
    assert Parareal(bounds=[0, 2]).bounds == (0, 2)


@pytest.mark.parametrize("steps", [1, 7, 50, 64, 1000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_slices_are_the_multiple_of_the_ranks_that_makes_parareal_shortest(steps, ranks):
    slices = best_slices(steps, ranks)
    assert slices % ranks == 0
    fewer, more = slices - ranks, slices + ranks
    for other in (fewer, more):
        if 0 < other <= max(steps, ranks):
            assert bound(steps, slices, 4) <= bound(steps, other, 4)
    assert abs(slices - sqrt(4 * steps)) <= max(ranks, 2) or slices == ranks or slices > steps / 2
