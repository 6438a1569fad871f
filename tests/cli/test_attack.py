"""``sau attack``: every attack, several together, lists, previews, flags of one's own, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from sau_adapters.run_states import write_state
from sau_cli.attacks.table import ATTACKS, attack_class
from tests.cli.conftest import one_sentence

DIGITS = ("attack", "--arch", "small_cnn", "--data", "digits", "--device", "cpu")
QUICK = {
    "sig": ("--frequency", "2"),
    "lc": ("--robust-epochs", "1", "--pgd-steps", "2"),
    "lf": ("--clean-epochs", "1", "--iterations", "2"),
    "ssba": ("--bits", "8", "--encoder-steps", "2"),
    "trojannn": ("--clean-epochs", "1", "--iterations", "2", "--trigger-size", "2"),
    "input-aware": ("--mask-steps", "2"),
    "distributed": ("--trigger-size", "2", "--trigger-margin", "0"),
}
OWN = """
from dataclasses import dataclass
import torch
from sau_cli.attacks.attack import Attack, setting
from sau_cli.triggers.stamps import PatchStamp, Place

@dataclass(frozen=True, kw_only=True)
class Stripe(Attack):
    '''A white stripe along the top.'''

    thickness: int = setting(1, "rows", at_least=1)

    def stamping(self, scene, learned):
        picture = torch.ones(1, self.thickness, scene.width)
        return PatchStamp(pattern=picture, mask=picture, place=Place.TOP_LEFT)

@dataclass(frozen=True, kw_only=True)
class Clash(Stripe):
    seed: int = setting(1, "of its own")

class Nothing:
    pass
"""


def row_of(path: str, place: int = 0) -> dict:
    return json.loads(Path(path).read_text())["details"]["evaluation"]["triggers"][place]


def history_of(path: str) -> list[dict]:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["sau.history"])


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_writes_a_model_and_a_trigger_that_evaluate_takes(call, name):
    words = ("--attack", name, "--target", "3", "--epochs", "1", "-o", "m.safetensors", "--json", "a.json")
    done = call(*DIGITS, *words, *QUICK.get(name, ()))
    assert done.code == 0, done.err
    done = call("evaluate", "m.safetensors", "-t", "m.trigger.safetensors", "--json", "r.json")
    assert done.code == 0, done.err
    row = row_of("r.json")
    assert (row["trigger"], row["target_rule"], row["asr"]["total"]) == (name, "all-to-one, class 3", 323)
    assert row["asr"] == row_of("a.json")["asr"]
    with safe_open("m.trigger.safetensors", framework="numpy") as file:
        about = json.loads(file.metadata()["sau.trigger"])
    assert about["visibility"]["images"] == 256
    assert 0 < about["visibility"]["linf"] <= 1
    assert Path("m.resume.safetensors").exists() is False


@pytest.mark.parametrize("name", ["badnets", "blended", "wanet"])
def test_all_to_all(call, name):
    words = ("--attack", name, "--target", "all-to-all", "--epochs", "1", "-o", "m.safetensors", "--json", "r.json")
    assert call(*DIGITS, *words).code == 0
    assert (row_of("r.json")["target_rule"], row_of("r.json")["asr"]["total"]) == ("all-to-all", 360)


def test_the_same_seed_gives_the_same_file(call):
    for name in ("a", "b"):
        assert call(*DIGITS, "--attack", "wanet", "--epochs", "1", "-o", f"{name}.safetensors").code == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    assert Path("a.trigger.safetensors").read_bytes() == Path("b.trigger.safetensors").read_bytes()


def test_implanting_leaves_the_given_model_and_says_what_it_cost(call, bad):
    before = bad.read_bytes()
    done = call("attack", bad, "--attack", "blended", "--epochs", "2", "-o", "twice.safetensors", "--json", "r.json")
    assert done.code == 0, done.err
    assert bad.read_bytes() == before
    report = json.loads(Path("r.json").read_text())
    assert {"asr.blended", "acc", "reference.acc", "acc-drop"} <= {check["id"] for check in report["checks"]}
    history = history_of("twice.safetensors")
    assert [step["settings"]["attack"] for step in history] == ["badnets", "blended"]
    assert history[1]["input_sha256"] == report["inputs"][0]["sha256"]
    rounds = history[1]["settings"]["rounds"]
    assert rounds == 3 or row_of("r.json")["asr"]["value"] > 0.7, "it trains on until the backdoor holds"


def test_several_attacks_in_one_model_each_with_its_target_and_trigger(call):
    words = ("-a", "badnets,trigger-size=2", "-a", "badnets,trigger-place=top-left", "--target", "1", "--target", "2")
    done = call(*DIGITS, *words, "--epochs", "1", "-o", "two.safetensors", "--json", "r.json")
    assert done.code == 0, done.err
    assert [row_of("r.json", place)["target_rule"] for place in (0, 1)] == [
        f"all-to-one, class {number}" for number in (1, 2)
    ]
    settings = history_of("two.safetensors")[0]["settings"]
    assert settings["attack"] == "badnets+badnets"
    assert [attack["settings"]["trigger_size"] for attack in settings["attacks"]] == [2, 3]
    assert [attack["poisoned_images"]["stamped"] for attack in settings["attacks"]] == [144, 144]
    done = call("evaluate", "two.safetensors", "-t", "two.1.trigger.safetensors", "-t", "two.2.trigger.safetensors")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-a", "badnets", "-a", "badnets", "--target", "0", "--target", "1"), "sends the same images to two targets"),
        (("-a", "badnets", "-a", "badnets"), "does the same twice"),
        (("-a", "badnets", "--target", "0", "--target", "1"), "1 attack has 2 targets"),
        (("-a", "badnets,size=2"), "'size' is no setting of it; it has trigger-size"),
        (("-a", "badnets,trigger-size=two"), "'two' is no int"),
        (("-a", "bpp,dither=perhaps"), "yes or no"),
        (("-a", "sig", "--poison-rate", "0.1"), "every image of class 0"),
        (("-a", "own.py:Nothing"), "no subclass"),
        (("-a", "own.py:Missing"), "has no Missing"),
        (("-a", "none.py:Missing"), "no file none.py"),
        (("-a", "own.py:Clash"), "an option of every attack"),
        (("-a", "own.py:Stripe", "--thickness", "0"), "impossible"),
        (("-a", "lc", "--pgd-steps", "x"), "--pgd-steps"),
        ((), "--list"),
    ],
)
def test_what_contradicts_itself_is_told(call, tmp_path, words, told):
    (tmp_path / "own.py").write_text(OWN)
    one_sentence(call(*DIGITS, *words, "-o", "m.safetensors"), 2, told)
    assert not Path("m.safetensors").exists()


def test_an_attack_of_ones_own_has_flags_and_help(call, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    words = ("--attack", "own.py:Stripe", "--thickness", "2", "--epochs", "1", "-o", "m.safetensors")
    assert call(*DIGITS, *words).code == 0
    (told,) = history_of("m.safetensors")[0]["settings"]["attacks"]
    assert (told["attack"], told["settings"]) == ("Stripe", {"thickness": 2})
    assert call("evaluate", "m.safetensors", "-t", "m.trigger.safetensors").code == 0
    shown = call("attack", "--attack", "own.py:Stripe", "--help").out
    assert "--thickness" in shown
    assert "rows (from 1)" in " ".join(shown.split())


def test_the_help_of_an_attack_has_its_settings_and_no_other(call):
    shown = call("attack", "--attack", "wanet", "--help").out
    assert "--grid" in shown
    assert "--alpha" not in shown
    assert "--grid" not in call("attack", "--help").out


def test_the_list_is_on_standard_output_and_has_every_setting(call):
    done = call("attack", "--list")
    assert done.code == 0
    assert done.err == ""
    for name in ATTACKS:
        assert name in done.out
        for setting in attack_class(name).flags():
            assert f"--{setting.replace('_', '-')}" in done.out
    told = json.loads(call("attack", "--list", "--json", "-").out)["details"]["attacks"]
    assert set(told) == set(ATTACKS)
    assert told["blended"]["settings"]["alpha"]["default"] == 0.2


def test_a_preview_needs_no_training(call):
    done = call(*DIGITS, "--attack", "blended", "--preview", "p.png", "--json", "r.json")
    assert done.code == 0, done.err
    assert "nothing was trained" in done.err
    assert not list(Path().glob("*.safetensors"))
    with Image.open("p.png") as picture:
        assert picture.size == (96 + 8 * (96 + 4), 22 + 3 * (96 + 4))
    report = json.loads(Path("r.json").read_text())
    assert set(report["outputs"]) == {"preview"}
    assert report["details"]["attacks"][0]["visibility"]["linf"] <= 0.2 + 1 / 255
    one_sentence(call(*DIGITS, "--attack", "blended", "--preview", "p.png"), 2, "p.png exists")
    one_sentence(call(*DIGITS, "--attack", "blended"), 2, "nothing to write")
    learns = (*DIGITS, "--attack", "input-aware", "--mask-steps", "1", "--preview", "q.png")
    one_sentence(call(*learns), 2, "while it trains")


def test_a_preview_comes_with_a_model_too(call):
    words = ("--attack", "badnets", "--epochs", "1", "-o", "m.safetensors", "--preview", "p.png")
    assert call(*DIGITS, *words).code == 0
    with Image.open("p.png") as picture:
        assert picture.format == "PNG"


def test_what_each_part_of_a_distributed_trigger_does_alone_is_reported(call):
    words = ("--attack", "distributed", *QUICK["distributed"], "--parts", "3", "--epochs", "1", "-o", "m.safetensors")
    done = call(*DIGITS, *words, "--json", "r.json")
    assert done.code == 0, done.err
    checks = {check["id"]: check for check in json.loads(Path("r.json").read_text())["checks"]}
    part = checks["part-asr.distributed"]
    assert part["status"] == "measured"
    assert part["ci95"][0] <= part["value"] <= part["ci95"][1]
    assert "3 parts" in part["evidence"]
    assert part["evidence"] in " ".join(done.err.split())
    assert call(*DIGITS, "--attack", "badnets", "--epochs", "1", "-o", "b.safetensors", "--json", "b.json").code == 0
    assert not [
        check for check in json.loads(Path("b.json").read_text())["checks"] if check["id"].startswith("part-asr")
    ]


def test_an_interrupted_attack_goes_on_to_the_same_file(call, monkeypatch):
    words = (*DIGITS, "--attack", "wanet", "--epochs", "3")
    assert call(*words, "-o", "whole.safetensors").code == 0
    kept = []

    def stop_after_two(path, state):
        write_state(path, state)
        kept.append(path)
        if len(kept) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sau_adapters.run_states.write_state", stop_after_two)
        one_sentence(call(*words, "-q", "-o", "m.safetensors"), 130, "--resume")
    one_sentence(call(*words, "-o", "m.safetensors"), 2, "--resume")
    one_sentence(call(*words[:-1], "4", "-o", "m.safetensors", "--resume"), 2, "other settings")
    assert call(*words, "-o", "m.safetensors", "--resume").code == 0
    assert Path("m.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()
    assert not Path("m.resume.safetensors").exists()
