"""The scripts that calibrate ``sau inspect``: the zoo's recipe, and what is made of evidence that is known."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sau_cli.images import ImageData, LabelledImages
from sau_cli.inspection.calibration import CHANNEL_BOUNDS, Calibration, shipped_calibration
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "calibration"
NETWORKS = ("a", "b", "c", "d")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """``zoo.py`` and ``calibrate.py``."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import calibrate
    import zoo

    yield SimpleNamespace(zoo=zoo, calibrate=calibrate)
    for name in ("zoo", "calibrate", "networks"):
        sys.modules.pop(name, None)


def rows(calibrate, apart: float, models: int = 40, seed: int = 0) -> list:
    """Evidence of as many clean as backdoored models, half of them untouched; the target, class 2, stands ``apart``."""
    draws, found = np.random.default_rng(seed), []
    for number in range(2 * models):
        bad = number % 2 == 1
        values = draws.normal(size=(3, 6))
        values[:, 2] += apart * bad
        about = {
            "data": "toy",
            "architecture": NETWORKS[number // 2 % len(NETWORKS)],
            "half": "untouched" if number >= models else "calibrated",
            "pixels": 32,
            "classes": 6,
            "bounds": 1.0,
            "asr": 0.95 if bad else None,
            "set-aside": [],
            "with-data": {"one": [{"values": seed_values.tolist(), "unit": 1.0} for seed_values in values]},
        }
        if bad:
            about |= {"attack": "badnets", "target": "2"}
        found.append(calibrate.Row(name=str(number), about=about, mode="with-data"))
    return found


def test_the_halves_of_the_zoo_share_no_network_and_hold_enough(scripts):
    models = list(scripts.zoo.zoo_models(scripts.zoo.read_zoo()))
    assert sum(not model.backdoored for model in models) >= 60
    assert sum(model.backdoored for model in models) >= 60
    assert len({model.name for model in models}) == len({model.seed for model in models}) == len(models)
    halves = [{(model.architecture) for model in models if model.untouched == half} for half in (False, True)]
    assert halves[0].isdisjoint(halves[1])
    assert len(halves[0] | halves[1]) >= 6
    fresh = {"lf", "wanet", "bpp", "ssba", "input-aware", "distributed", "dynamic"}
    seen = {model.about.get("attack") for model in models if not model.untouched}
    assert seen.isdisjoint(fresh)
    assert fresh <= {model.about.get("attack") for model in models if model.untouched}


def test_a_part_of_the_zoo_is_balanced(scripts):
    models = list(scripts.zoo.zoo_models(scripts.zoo.read_zoo()))
    for count in (20, 40, 60):
        assert abs(sum(model.backdoored for model in models[:count]) - count / 2) <= 2


def some_digits(count: int = 200) -> ImageData:
    labels = torch.arange(count) % 10
    images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    part = LabelledImages(images=images, labels=labels, class_names=tuple("0123456789"))
    return ImageData(name="toy", train=part, test=part)


@pytest.mark.parametrize(
    ("how", "classes", "least"), [(None, 10, 1.0), ("few-classes", 5, 1.0), ("large-class", 10, 0.1)]
)
def test_what_is_unusual_about_a_model_s_images(scripts, monkeypatch, how, classes, least):
    zoo = {"seed": 0, "test-images": 100, "data": {"toy": {"source": "toy", "images": 200}}}
    monkeypatch.setattr(scripts.zoo, "whole_data", lambda *_: some_digits())
    first = next(iter(scripts.zoo.zoo_models(scripts.zoo.read_zoo())))
    data = scripts.zoo.data_of(replace(first, data="toy", about={"how": how} if how else {}, seed=3), zoo, FOLDER)
    assert data.train.classes == data.for_testing.classes == classes
    counts = data.train.labels.bincount(minlength=classes).float()
    assert float(counts.min() / counts.max()) >= (least if how != "large-class" else 0)
    if how == "large-class":
        assert int(counts.argmax()) == 3
        assert float(counts.sort().values[-2] / counts.max()) < 0.6


def test_the_threshold_is_that_of_split_conformal_prediction(scripts):
    """Of n clean models the k-th smallest score, k = ceil((n + 1)·0.95), each scored without its own network."""
    calibrate = scripts.calibrate
    for models, place, promised in ((40, 20, 0.05), (200, 96, 0.05), (16, 8, 1 / 9)):
        known = [row for row in rows(calibrate, 4.0, models) if row.about["half"] == "calibrated"]
        (found,) = calibrate.thresholds(known).values()
        expected = []
        for network in NETWORKS:
            weights, bias = calibrate.fit([row for row in known if row.about["architecture"] != network])
            mine = [row for row in known if row.about["architecture"] == network and not row.backdoored]
            expected += [row.logit(weights, bias) for row in mine]
        assert len(expected) == found["clean_models"] == models // 2
        assert found["logit"] == pytest.approx(sorted(expected)[place - 1])
        assert found["accused_at_most"] == pytest.approx(promised, abs=1e-4)


@pytest.mark.long
def test_evidence_that_tells_is_given_weight_and_none_gets_none(scripts, capsys):
    calibrate = scripts.calibrate
    told = calibrate.calibrated(rows(calibrate, 9.0))
    assert sum(told["weights"].values()) > 0.5
    assert told["measured"]["auroc"] == 1.0
    assert told["measured"]["found"] == 20
    assert told["measured"]["right_class"] == 20
    assert told["measured"]["called_backdoored"] <= 4  # of 20, and 1 expected
    nothing = calibrate.calibrated(rows(calibrate, 0.0))
    assert nothing["measured"]["auroc"] == pytest.approx(0.5, abs=0.25)
    assert nothing["measured"]["found"] < 6
    assert min([*told["weights"].values(), *nothing["weights"].values()]) >= 0
    assert "badnets" in capsys.readouterr().out


@pytest.mark.long
def test_the_untouched_half_changes_nothing_but_what_is_measured(scripts):
    calibrate = scripts.calibrate
    every = rows(calibrate, 3.0)
    known = [row for row in every if row.about["half"] == "calibrated"]
    fresh = [row for row in rows(calibrate, 0.5, seed=1) if row.about["half"] == "untouched"]
    first, second = calibrate.calibrated(every), calibrate.calibrated([*known, *fresh])
    assert first["measured"] != second["measured"]
    assert all(first[name] == second[name] for name in ("weights", "bias", "kinds"))
    assert {*first} - {"weights", "bias", "kinds"} == {"measured", "by_attack", "by_network"}


def test_a_backdoor_that_does_not_hold_is_left_out(scripts, tmp_path):
    for name, asr in (("clean", "null"), ("weak", "0.59"), ("strong", "0.61")):
        (tmp_path / f"{name}.json").write_text(f'{{"asr": {asr}}}')
    assert [row.name for row in scripts.calibrate.read_rows(tmp_path, "with-data")] == ["clean", "strong"]


@pytest.mark.long
@pytest.mark.parametrize("with_data", [True, False])
def test_what_is_shipped_is_what_the_kept_evidence_gives(scripts, with_data):
    mode = "with-data" if with_data else "data-free"
    made = scripts.calibrate.calibrated(scripts.calibrate.read_rows(FOLDER / "evidence", mode))
    made, shipped = Calibration.of(made), shipped_calibration(with_data=with_data)
    assert shipped.weights == pytest.approx(made.weights, abs=0.02)
    assert CHANNEL_BOUNDS in shipped.weights
    assert [kind.pixels for kind in shipped.kinds] == [kind.pixels for kind in made.kinds]
    for mine, theirs in zip(shipped.kinds, made.kinds, strict=True):
        assert mine.threshold == pytest.approx(theirs.threshold, abs=0.01)
    assert shipped.measured["backdoored_models"] == made.measured["backdoored_models"]
