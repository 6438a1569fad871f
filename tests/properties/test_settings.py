"""A value outside of what a setting may be is refused by the setting's name, whichever setting it is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sau_cli.errors import UsageError
from sau_cli.settings import Range, Share, check_settings, kinds_of, setting, settings_of, values_of
from sau_cli.unlearning.compared_methods import Distancing, FeatureShift, FineTuning, ImplicitUnlearning
from sau_cli.unlearning.methods import MethodName, settings_for
from sau_cli.unlearning.recipes import DEFAULT, PAPER, Recipe

KINDS = {kind: kinds_of(kind) for kind in (Recipe, FineTuning, ImplicitUnlearning, Distancing, FeatureShift)}
NUMBERS = [(kind, name) for kind, known in KINDS.items() for name, of in known.items() if isinstance(of, Range)]
OTHERS = [(kind, name) for kind, known in KINDS.items() for name, of in known.items() if not isinstance(of, Range)]


@st.composite
def outside(draw):
    """A setting and a value that is none of its."""
    kind, name = draw(st.sampled_from(NUMBERS))
    known = KINDS[kind][name]
    low = st.floats(max_value=known.low, exclude_max=not known.above, allow_nan=False)
    high = st.floats(min_value=known.high, exclude_min=not known.below, allow_nan=False)
    wrong = [low, high, st.just(float("nan")), st.text(max_size=3), st.booleans(), st.none()]
    wrong += [st.integers(1, 1000).map(lambda whole: whole + 0.5)] * known.whole
    return kind, name, draw(st.one_of(wrong))


@settings(max_examples=400, deadline=None)
@given(outside())
def test_a_value_outside_its_range_is_refused_by_name(wrong):
    kind, name, value = wrong
    with pytest.raises(UsageError, match=f"^{name.replace('_', ' ')} .*impossible"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), OTHERS)
def test_what_is_no_number_is_of_its_type(kind, name):
    with pytest.raises(UsageError, match=f"^{name.replace('_', ' ')} 'sometimes' is impossible"):
        kind(**{name: "sometimes"})


@pytest.mark.parametrize("recipe", [PAPER, DEFAULT], ids=["paper", "default"])
@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_every_setting_of_a_recipe_has_a_range_and_both_recipes_are_in_it(recipe, name):
    known = KINDS[Recipe][name]
    assert known in (bool, type(getattr(recipe, name))) or known.holds(getattr(recipe, name))
    assert replace(recipe, **{name: getattr(recipe, name)}) == recipe


def test_the_first_wrong_one_is_named():
    with pytest.raises(UsageError, match="proposals -3 is impossible; give a whole number above 0"):
        Recipe(patch_share=7, proposals=-3)
    with pytest.raises(UsageError, match="patch share 7 is impossible; give a share from 0 to 1"):
        Recipe(patch_share=7)


@dataclass(frozen=True, kw_only=True)
class Fog:
    share: Share = setting(0.5, "how much is foggy")
    depth: int = setting(3, "layers", at_least=1, at_most=9)
    reach: float = setting(0.5, "how far", follows="share")
    kind: str = setting("grey", "of what colour", choices=("grey", "white"))
    inner: int = 7

    def __post_init__(self) -> None:
        check_settings(self)


def test_one_declaration_is_field_flag_help_limits_and_history():
    known = settings_of(Fog)
    assert list(known) == ["share", "depth", "reach", "kind"]
    assert list(settings_of(Fog, every=True)) == [*known, "inner"]
    assert (known["depth"].kind, known["depth"].default, known["depth"].what) == (int, 3, "layers")
    assert (known["depth"].limits, known["kind"].limits, known["share"].limits) == ("from 1 to 9", "grey or white", "")
    assert known["reach"].follows == "share"
    assert values_of(Fog(depth=4)) == {"share": 0.5, "depth": 4, "reach": 0.5, "kind": "grey", "inner": 7}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"share": 1.5}, "share 1.5 is impossible; give a share from 0 to 1"),
        ({"depth": 0}, "depth 0 is impossible; give from 1 to 9"),
        ({"depth": 2.5}, "depth 2.5 is impossible; give from 1 to 9"),
        ({"kind": "red"}, "kind red is impossible; give grey or white"),
        ({"inner": 10**8}, "inner 100000000 is impossible; give at most 10,000,000"),
    ],
)
def test_what_it_may_be_is_told(wrong, told):
    with pytest.raises(UsageError, match=f"^{told}$"):
        Fog(**wrong)


def test_a_bad_value_is_told_of_the_setting_that_was_given():
    """Another one follows it, and is looked at first."""
    with pytest.raises(UsageError, match=r"^epsilon -3 is impossible"):
        settings_for(MethodName.SAU, epsilon=-3)
    with pytest.raises(UsageError, match=r"^step -3 is impossible"):
        settings_for(MethodName.SAU, step=-3)
