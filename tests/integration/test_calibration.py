"""The script that calibrates ``sau inspect``: the zoo's recipe, and what is made of evidence that is known."""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from types import ModuleType

import numpy as np
import pytest

from sau_cli.inspection.calibration import CHANNEL_BOUNDS, shipped_calibration
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "calibration"
TESTS = ["one", "one lead"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """``zoo.py`` and ``calibrate.py``."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import calibrate
    import zoo

    yield zoo, calibrate
    for name in ("zoo", "calibrate"):
        sys.modules.pop(name, None)


def rows(apart: float, models: int = 16, seed: int = 0) -> list[dict]:
    """Evidence of as many clean as backdoored models, half of them untouched; the target, class 2, stands ``apart``."""
    draws = np.random.default_rng(seed)
    found = []
    for number in range(2 * models):
        bad = number % 2 == 1
        seeds = []
        for _ in range(3):
            values = draws.normal(size=(2, 6))
            values[:, 2] += apart * bad
            seeds.append(dict(zip(TESTS, values.tolist(), strict=True)))
        found.append(
            {
                "data": "toy",
                "architecture": "toy",
                "attack": "badnets" if bad else None,
                "untouched": number >= models,
                "bounds": 1.0,
                "seeds": seeds,
            }
        )
    return found


def test_the_zoo_is_half_clean_and_half_untouched(scripts):
    zoo, _ = scripts
    models = list(zoo.zoo_models(tomllib.loads((FOLDER / "zoo.toml").read_text())))
    assert Counter((one.attack is None, one.untouched) for one in models) == {
        (clean, untouched): 12 for clean in (True, False) for untouched in (True, False)
    }
    assert len({one.name for one in models}) == len({one.seed for one in models}) == 48
    assert len({one.data for one in models}) == 2
    assert len({one.architecture for one in models}) == 3
    calibrated_on = {one.attack[0] for one in models if one.attack and not one.untouched}
    assert calibrated_on == {"badnets", "blended"}
    assert len({one.attack[0] for one in models if one.attack and one.untouched} - calibrated_on) == 6


def test_what_stands_far_apart_is_told_without_error(scripts, capsys):
    _, calibrate = scripts
    found = calibrate.calibrate(rows(apart=12.0), TESTS)
    assert found["measured"]["auroc"] == 1.0
    assert found["measured"]["found"] == found["measured"]["backdoored_models"] == 8
    assert found["measured"]["called_backdoored"] == 0
    assert set(found["weights"]) == {*TESTS, CHANNEL_BOUNDS}
    assert all(weight >= 0 for weight in found["weights"].values())
    assert "AUROC 1.000" in capsys.readouterr().out


def test_what_does_not_stand_apart_is_not(scripts):
    _, calibrate = scripts
    found = calibrate.calibrate(rows(apart=0.0, models=60), TESTS)
    assert 0.3 < found["measured"]["auroc"] < 0.7
    assert found["measured"]["called_backdoored"] / found["measured"]["clean_models"] < 0.2


def test_rates_at_a_share_of_false_positives(scripts):
    _, calibrate = scripts
    truth = [False] * 20 + [True] * 4
    scored = [number / 100 for number in range(20)] + [0.185, 0.186, 0.17, 0.9]
    assert calibrate._found_at(0.05, truth, scored) == 0.75
    assert calibrate._found_at(0.0, truth, scored) == 0.25


@pytest.mark.parametrize("with_data", [True, False])
def test_what_is_shipped_came_from_the_whole_zoo(with_data):
    measured = shipped_calibration(with_data=with_data).measured
    assert measured["clean_models"] == 12
    assert 11 <= measured["backdoored_models"] <= 12  # one whose backdoor did not hold is left out
    assert 0.5 < measured["auroc"] <= 1
