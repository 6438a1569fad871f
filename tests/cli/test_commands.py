"""Each command, from its files in to its files out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sau_adapters.images.sources import open_images
from sau_adapters.triggers import open_trigger, write_trigger
from sau_cli.triggers.targets import parse_target
from sau_cli.unlearning.recipes import REVISION
from tests.cli.conftest import one_sentence

PURIFY = ("--recipe", "paper", "--clean-frac", "0.05", "--epochs", "2", "--device", "cpu")
DONE = {0, 6}
"""The exit codes of a purification that ran: whether its short run is cleared is another question."""


def checks(path: str) -> dict[str, dict]:
    return {check["id"]: check for check in json.loads(Path(path).read_text())["checks"]}


def test_attack_writes_weights_and_a_trigger_that_works(planted):
    report = json.loads((planted / "attack.json").read_text())
    assert set(report["outputs"]) == {"weights", "trigger"}
    found = {check["id"]: check for check in report["checks"]}
    assert found["asr.badnets"]["value"] > 0.9
    assert found["acc"]["value"] > 0.9
    with safe_open(planted / "bad.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["sau.architecture"] == "small_cnn"
    assert metadata["sau.data"] == "digits"
    (step,) = json.loads(metadata["sau.history"])
    assert (step["step"], step["settings"]["attack"], step["seed"], step["input_sha256"]) == (
        "attack",
        "badnets",
        0,
        None,
    )
    (told,) = step["settings"]["attacks"]
    assert told["poisoned_images"]["stamped"] == 144
    assert told["settings"]["trigger_size"] == 3


def test_the_asr_recomputed_by_hand_from_the_files(planted):
    """Without a line of the product but the network: stamp by the trigger's tensors, normalise, count."""
    from sau_adapters.architectures.cifar_networks.small_cnn import SmallCNN

    network = SmallCNN(10, 1)
    network.load_state_dict(load_file(planted / "bad.safetensors"))
    network.eval()
    test = open_images("digits").test
    parts = load_file(planted / "bad.trigger.safetensors")
    with safe_open(planted / "bad.trigger.safetensors", framework="numpy") as file:
        about = json.loads(file.metadata()["sau.trigger"])
    assert (about["kind"], about["margin"], about["target"]) == ("patch", [0, 0], 0)
    images = test.images.float() / 255
    images[:, :, -3:, -3:] = parts["mask"] * parts["pattern"] + (1 - parts["mask"]) * images[:, :, -3:, -3:]
    with torch.no_grad():
        said = network(images).argmax(1)
    counted = test.labels != 0
    asr = float((said[counted] == 0).float().mean())
    report = json.loads((planted / "attack.json").read_text())
    assert next(check["value"] for check in report["checks"] if check["id"] == "asr.badnets") == pytest.approx(asr)


def test_purify_is_a_whole_command(call, bad):
    before = bad.read_bytes()
    done = call("purify", bad, "--clean-frac", "0.05", "--epochs", "2", "--json", "r.json")
    assert done.code in DONE, done.err
    assert bad.read_bytes() == before
    report = json.loads(Path("r.json").read_text())
    details = report["details"]
    assert (details["learned_from"], details["held_back"], len(details["epochs"])) == (72, 144, 2)
    assert (details["settings"]["name"], details["settings"]["batch_size"]) == ("default", 16)
    with safe_open("bad.purified.safetensors", framework="numpy") as file:
        history = json.loads(file.metadata()["sau.history"])
    assert [step["step"] for step in history] == ["attack", "purify"]
    assert history[1]["input_sha256"] == report["inputs"][0]["sha256"]
    assert history[1]["settings"]["revision"] == details["settings"]["revision"] == REVISION
    assert details["settings"].items() <= history[1]["settings"].items()
    weights = load_file("bad.purified.safetensors")
    assert set(weights) == set(load_file(bad))


def test_nothing_of_the_trigger_reaches_purify(call, bad, tmp_path):
    """The result is the same, bit for bit, when the trigger file is gone and the history has been erased."""
    assert call("purify", bad, *PURIFY, "-o", "first.safetensors").code in DONE
    with safe_open(bad, framework="numpy") as file:
        metadata = file.metadata()
    save_file(load_file(bad), "erased.safetensors", metadata=metadata | {"sau.history": "[]"})
    (tmp_path / "bad.trigger.safetensors").unlink()
    assert call("purify", "erased.safetensors", *PURIFY, "-o", "second.safetensors").code in DONE
    first, second = load_file("first.safetensors"), load_file("second.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_purify_takes_what_it_needs_from_flags(call, bad):
    """The same model without metadata gives the same weights when the flags say what the metadata said."""
    assert call("purify", bad, *PURIFY, "-o", "first.safetensors").code in DONE
    torch.save({"state_dict": load_file(bad)}, "vendor.pth")
    words = ("--arch", "small_cnn", "--data", "digits", "--normalisation", "none")
    assert call("purify", "vendor.pth", *words, *PURIFY).code in DONE
    first, second = load_file("first.safetensors"), load_file("vendor.purified.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_purify_takes_what_it_needs_from_settings(call, bad):
    torch.save(load_file(bad), "vendor.pth")
    Path("sau.toml").write_text('data = "digits"\narch = "small_cnn"\nnormalisation = "none"\nclean-frac = 0.05\n')
    assert call("purify", "vendor.pth", "--epochs", "1").code in DONE
    Path("sau.toml").unlink()
    Path("pyproject.toml").write_text('[tool.sau]\ndata = "digits"\narch = "small_cnn"\nnormalisation = "none"\n')
    assert call("evaluate", "vendor.pth").code == 0


def test_a_folder_without_a_split_is_all_clean_data(call, bad):
    digits = open_images("digits").train
    np.savez("clean.npz", images=digits.images[:200].numpy(), labels=digits.labels[:200].numpy())
    done = call("purify", bad, "--data", "clean.npz", "--epochs", "1", "--json", "r.json")
    assert done.code == 0, done.err
    details = json.loads(Path("r.json").read_text())["details"]
    assert (details["learned_from"], details["held_back"]) == (180, 20)


def test_evaluate_measures_both_models_and_judges_limits(call, bad):
    assert call("purify", bad, *PURIFY, "-o", "p.safetensors").code in DONE
    words = ("evaluate", "p.safetensors", "-r", bad, "-t", "bad.trigger.safetensors", "--force", "--json", "r.json")
    assert call(*words).code == 0
    found = checks("r.json")
    assert {"acc", "asr.badnets", "r-acc.badnets", "der.badnets", "reference.acc", "acc-drop"} <= set(found)
    for model in ("", "reference."):
        wrong, right = (found[f"{model}{name}.badnets"] for name in ("wrong", "r-acc"))
        assert wrong["value"] == pytest.approx(1 - right["value"])
        assert "% of them without the trigger" in wrong["evidence"]
    for name, check in found.items():
        if ".p-value" in name:
            assert 0 <= check["value"] <= 1
        else:
            assert check["ci95"][0] <= check["value"] <= check["ci95"][1]
    assert call(*words, "--max-asr", "100%", "--min-acc", "1%", "--max-acc-drop", "1").code == 0
    assert json.loads(Path("r.json").read_text())["verdict"] == "passed"
    done = call(*words, "--max-asr", "0", "--min-acc", "1%")
    assert done.code == 1
    assert "FAILED" in done.err
    found = checks("r.json")
    assert found["limit.max-asr.badnets"]["status"] == "failed"
    assert found["limit.min-acc"]["status"] == "passed"
    acc = found["acc"]["value"]
    assert call(*words, "--min-acc", str(acc)).code == 0
    assert call(*words, "--min-acc", str(acc), "--confident").code == 6


def test_a_trigger_that_still_misleads_is_told(call, bad):
    """The model's own trigger, said to lead to class 5: it leads to 0."""
    own = open_trigger("bad.trigger.safetensors", None)
    write_trigger(Path("other.trigger.safetensors"), replace(own, rule=parse_target("5")), force=False)
    words = ("evaluate", bad, "-t", "other.trigger.safetensors", "--force", "--json", "r.json")
    done = call(*words)
    assert done.code == 0, done.err
    found = checks("r.json")["wrong.badnets"]
    assert found["value"] > 0.8
    assert found["evidence"].endswith("the trigger still misleads, although it hardly reaches its target")
    assert "warning: badnets still misleads, although it hardly reaches its target" in " ".join(done.err.split())
    assert "wrong badnets" in done.err
    assert "misleads" not in call("evaluate", bad, "-t", "bad.trigger.safetensors").err


def test_two_triggers_of_one_name_are_told_apart(call, bad):
    trigger = "bad.trigger.safetensors"
    assert call("evaluate", bad, "-t", trigger, "-t", trigger, "--json", "r.json").code == 0
    assert {"asr.badnets-1", "asr.badnets-2"} <= set(checks("r.json"))


def test_inspect_says_what_the_file_is(call, bad):
    done = call("inspect", "--effort", "quick", bad, "--json", "r.json")
    assert done.code == 0
    report = json.loads(Path("r.json").read_text())
    file = report["details"]["file"]
    assert (file["format"], len(file["tensors"]), file["description"]["architecture"]) == (
        "safetensors",
        26,
        "small_cnn",
    )
    assert file["sha256"] == report["inputs"][0]["sha256"]
    assert file["size_bytes"] == bad.stat().st_size
    assert report["verdict"] == "measured"
    assert checks("r.json")["model.behaviour"]["status"] == "skipped"
    for word in ("safetensors", "small_cnn", file["sha256"], "badnets", "not examined"):
        assert word in done.err


def test_inspect_goes_by_content(call, bad):
    bad.rename("model.pt")
    assert call("inspect", "--effort", "quick", "model.pt", "--json", "r.json").code == 0
    assert json.loads(Path("r.json").read_text())["details"]["file"]["format"] == "safetensors"


def test_inspect_shows_a_strangers_text_harmlessly(call, tmp_path):
    hostile = "\x1b[2J\x1b]0;owned\x07[bold red]safe[/]"
    save_file({"w": torch.zeros(2)}, tmp_path / "x.safetensors", metadata={"note": hostile, "format": "pt"})
    done = call("inspect", "--effort", "quick", "x.safetensors")
    assert done.code == 0
    assert "\x1b" not in done.err
    assert "\x07" not in done.err
    assert "[bold red]safe[/]" in done.err


def test_inspect_reports_a_refused_file_as_unsafe(call, tmp_path):
    from tests.support.files import hostile_zip

    done = call("inspect", "--effort", "quick", hostile_zip(tmp_path), "--json", "r.json")
    assert done.code == 4
    report = json.loads(Path("r.json").read_text())
    assert (report["verdict"], report["exit_code"]) == ("unsafe", 4)
    assert checks("r.json")["file.pickle-code"]["status"] == "failed"


@pytest.mark.long
def test_export_is_run_by_bare_onnxruntime(call, bad):
    assert call("export", bad, "-o", "m.onnx", "--json", "r.json").code == 0
    onnx.checker.check_model("m.onnx", full_check=True)
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    about = {entry.key: entry.value for entry in onnx.load("m.onnx").metadata_props}
    fed = json.loads(about["sau.preprocessing"])
    assert (fed["layout"], fed["range"], fed["normalisation"]) == ("NCHW", [0, 1], "inside the graph")
    assert json.loads(about["sau.classes"]) == [str(number) for number in range(10)]
    assert about["sau.source_sha256"] == json.loads(Path("r.json").read_text())["inputs"][0]["sha256"]
    test = open_images("digits").test
    for count in (1, 3, 360):
        images = test.images[:count].numpy().astype(np.float32) / 255
        (logits,) = session.run(["logits"], {"images": images})
        assert logits.shape == (count, 10)
    accuracy = float((logits.argmax(1) == test.labels.numpy()).mean())
    figures = json.loads(about["sau.verification"])
    assert figures["accuracy"] == figures["accuracy_pytorch"] == pytest.approx(accuracy)
    assert (figures["images"], figures["top1_agreement"]) == (360, 1.0)
    assert call("inspect", "--effort", "quick", "m.onnx").code == 0


def test_a_users_own_network(call, bad):
    Path("mine.py").write_text(
        "from sau_adapters.architectures.cifar_networks.small_cnn import SmallCNN\n"
        "class Mine(SmallCNN):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(num_classes, 1)\n"
    )
    torch.save(load_file(bad), "vendor.pth")
    words = ("--arch", "mine.py:Mine", "--data", "digits", "--normalisation", "none")
    assert call("purify", "vendor.pth", *words, *PURIFY).code in DONE
    one_sentence(call("evaluate", "vendor.purified.safetensors"), 3, "--arch FILE.py:CLASS")
    assert call("evaluate", "vendor.purified.safetensors", "--arch", "mine.py:Mine").code == 0
    Path("sau.toml").write_text('arch = "mine.py:Mine"')
    assert call("evaluate", "vendor.purified.safetensors").code == 0
    Path("sau.toml").unlink()
    one_sentence(call("evaluate", "vendor.pth", "--arch", "mine.py:Other", *words[2:]), 2, "has no Other")
    one_sentence(call("evaluate", "vendor.pth", "--arch", "none.py:Mine", *words[2:]), 2, "no file none.py")


def test_inspect_measures_accuracy_and_applies_a_policy(call, bad):
    assert call("inspect", "--effort", "quick", bad, "--data", "digits", "--json", "r.json").code == 0
    accuracy = checks("r.json")["acc"]["value"]
    assert accuracy > 0.9
    sha256 = json.loads(Path("r.json").read_text())["inputs"][0]["sha256"]
    Path("good.toml").write_text(
        f'[policy]\nallowed-formats = ["safetensors"]\nallowed-sha256 = ["{sha256}"]\nmin-acc = 0.5\n'
    )
    assert call("inspect", "--effort", "quick", bad, "--policy", "good.toml", "--json", "r.json", "--force").code == 0
    assert json.loads(Path("r.json").read_text())["verdict"] == "passed"
    for rule, name in (('allowed-formats = ["onnx"]', "allowed-formats"), ("min-acc = 1.0", "min-acc")):
        Path("sau.toml").write_text(f"[policy]\n{rule}\n")
        assert call("inspect", "--effort", "quick", bad, "--json", "r.json", "--force").code == 1
        report = json.loads(Path("r.json").read_text())
        assert (report["verdict"], report["exit_code"]) == ("failed", 1)
        assert checks("r.json")[f"policy.{name}"]["status"] == "failed"


def test_a_finding_is_not_hidden_by_a_later_error(call, bad):
    """The policy is broken, and then the data cannot be opened: the gate still says that the policy failed."""
    Path("p.toml").write_text('[policy]\nallowed-formats = ["onnx"]\nmin-acc = 0.5\n')
    done = call("inspect", "--effort", "quick", bad, "--policy", "p.toml", "--data", "nothing", "--json", "r.json")
    assert done.code == 1
    report = json.loads(Path("r.json").read_text())
    assert report["verdict"] == "failed"
    assert "nothing" in report["error"]
    assert checks("r.json")["policy.allowed-formats"]["status"] == "failed"


def test_a_bare_file_of_a_stranger_says_what_it_lacks_and_keeps_its_number_format(call, bad):
    half = {
        f"module.{name}": tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(bad).items()
    }
    save_file(half, "vendor.safetensors")
    done = call("purify", "vendor.safetensors", "--data", "digits", *PURIFY)
    assert done.code == 3
    assert "small_cnn, whose tensors' names begin with module." in done.err
    assert "Accuracy on 360 of the images by normalisation" in done.err
    assert "add --normalisation" in done.err.splitlines()[-1]
    assert not Path("vendor.purified.safetensors").exists()
    words = ("--data", "digits", "--normalisation", "none", *PURIFY)
    assert call("purify", "vendor.safetensors", *words).code in DONE
    written = load_file("vendor.purified.safetensors")
    assert {name: tensor.dtype for name, tensor in written.items()} == {
        name.removeprefix("module."): tensor.dtype for name, tensor in half.items()
    }
    done = call("inspect", "--effort", "quick", "vendor.safetensors")
    assert "small_cnn, by the names and shapes of its tensors" in done.err
    assert "names begin with module." in done.err


def test_a_failed_limit_is_told_before_a_trigger_that_does_not_fit(call, bad):
    from PIL import Image

    Image.new("RGB", (9, 9)).save("big.png")
    words = ("-t", "bad.trigger.safetensors", "-t", "patch:big.png", "--target", "0", "--json", "r.json")
    done = call("evaluate", bad, *words, "--max-asr", "5%", "--min-acc", "1%")
    assert done.code == 1
    assert "ASR badnets" in done.err
    found = checks("r.json")
    assert (found["limit.max-asr.badnets"]["status"], found["limit.min-acc"]["status"]) == ("failed", "passed")
    assert "9x9" in json.loads(Path("r.json").read_text())["error"]
    done = call("evaluate", bad, *words, "--max-asr", "100%", "--force")
    assert done.code in {2, 3}, "nothing failed, and not all was measured"


def test_no_trigger_is_lost_between_names(call, bad):
    """A rule judges all of them, also where numbering the names would make two alike."""
    from PIL import Image

    for name in ("badnets", "badnets-1"):
        Image.new("RGBA", (1, 1)).save(f"{name}.png")
    Path("p.toml").write_text("[policy]\nmax-asr = 0.1\n")
    words = [word for name in ("badnets", "badnets-1") for word in ("-t", f"patch:{name}.png")]
    words = ["-t", "bad.trigger.safetensors", *words, "--target", "0", "--policy", "p.toml"]
    assert call("evaluate", bad, *words, "--json", "r.json").code == 1
    assert sum(name.startswith("policy.max-asr") for name in checks("r.json")) == 3
