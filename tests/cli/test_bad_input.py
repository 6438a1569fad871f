"""Whatever is wrong with the input: one clear sentence, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.files import claimed
from sau_adapters.images.sources import open_images
from tests.cli.conftest import one_sentence
from tests.support.files import hostile_pickle, hostile_zip
from tests.support.toys import describe

MODEL_COMMANDS = {
    "inspect": [],
    "purify": ["--clean-frac", "0.05", "-o", "out.safetensors"],
    "evaluate": [],
    "export": ["-o", "out.onnx"],
}
on_every_command = pytest.mark.parametrize("command", MODEL_COMMANDS)
TRAIN = ("attack", "--attack", "badnets", "--arch", "small_cnn", "-o", "out.safetensors", "--epochs", "1")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    """No test here may leave an output or a temporary file."""
    yield
    left = [
        path.name for path in tmp_path.rglob("*") if path.name.startswith("out.") or path.suffix in {".part", ".lock"}
    ]
    assert left == []


@on_every_command
def test_a_missing_file(call, command):
    one_sentence(
        call(command, "nothing.safetensors", *MODEL_COMMANDS[command]), 2, "nothing.safetensors does not exist"
    )


def test_a_missing_file_in_a_missing_folder_is_what_is_said(call):
    one_sentence(call("purify", "nowhere/m.safetensors", "--clean-frac", "0.05"), 2, "nowhere/m.safetensors does not")


@on_every_command
def test_a_folder_in_place_of_a_file(call, command, tmp_path):
    (tmp_path / "model").mkdir()
    one_sentence(call(command, "model", *MODEL_COMMANDS[command]), 2, "is a folder")


@on_every_command
def test_a_truncated_file(call, command, bad):
    bad.write_bytes(bad.read_bytes()[:-1000])
    one_sentence(call(command, bad, *MODEL_COMMANDS[command]), 3, "cut short")


@on_every_command
def test_an_empty_file(call, command, bad):
    bad.write_bytes(b"")
    one_sentence(call(command, bad, *MODEL_COMMANDS[command]), 3, "empty")


@on_every_command
def test_text_named_safetensors(call, command, bad):
    bad.write_text("this is a shopping list, not a model\n" * 20)
    one_sentence(call(command, bad, *MODEL_COMMANDS[command]), 3, "no known model format")


@on_every_command
def test_a_lying_header(call, command, bad):
    content = bytearray(bad.read_bytes())
    content[:8] = (10**9).to_bytes(8, "little")
    bad.write_bytes(bytes(content))
    done = call(command, bad, *MODEL_COMMANDS[command])
    assert done.code == 4
    assert "header" in done.err
    assert "Traceback" not in done.err


@on_every_command
@pytest.mark.parametrize("make", [hostile_pickle, hostile_zip])
def test_a_pickle_that_runs_code(call, command, make, tmp_path):
    done = call(command, make(tmp_path), *MODEL_COMMANDS[command])
    assert done.code == 4
    assert "open" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "was-run").exists()


def test_a_pickle_named_safetensors(call, tmp_path):
    path = hostile_pickle(tmp_path).rename(tmp_path / "model.safetensors")
    one_sentence(call("evaluate", path), 4, "refused")


@pytest.mark.parametrize("share", ["0", "2", "-1", "nan"])
def test_an_impossible_clean_share(call, bad, share):
    done = call("purify", bad, "--clean-frac", share, "-o", "out.safetensors")
    one_sentence(done, 2, "--clean-frac")


def test_a_clean_share_that_is_no_number(call, bad):
    one_sentence(call("purify", bad, "--clean-frac", "half", "-o", "out.safetensors"), 2, "--clean-frac")


def test_a_share_that_selects_nothing(call, bad):
    one_sentence(call("purify", bad, "--clean-frac", "0.0001", "-o", "out.safetensors"), 2, "selects no image")


def test_a_split_without_a_share(call, bad):
    one_sentence(call("purify", bad, "-o", "out.safetensors"), 2, "--clean-frac")


@pytest.mark.parametrize("command", ["purify", "evaluate", "export"])
@pytest.mark.parametrize(
    ("classes", "size", "sentence"),
    [(12, 8, "class '10' that the model lacks"), (10, 9, "9x9 but the model takes 8x8")],
)
def test_data_that_does_not_fit(call, bad, command, classes, size, sentence):
    np.savez("data.npz", images=np.zeros((20, size, size), np.uint8), labels=np.arange(20) % classes)
    done = call(command, bad, "--data", "data.npz", *MODEL_COMMANDS[command])
    one_sentence(done, 3, sentence)


def test_images_of_another_size_can_be_resized(call, bad):
    np.savez("data.npz", images=np.zeros((20, 9, 9), np.uint8), labels=np.arange(20) % 10)
    assert call("evaluate", bad, "--data", "data.npz", "--image-size", "8").code == 0


@pytest.mark.parametrize("command", ["purify", "evaluate", "export"])
def test_an_unknown_data_set(call, bad, command):
    one_sentence(call(command, bad, "--data", "digit", *MODEL_COMMANDS[command]), 2, "did you mean digits")


def test_data_without_its_root(call, bad):
    one_sentence(call("evaluate", bad, "--data", "cifar10"), 2, "--data-root")


def test_data_in_another_place(call, bad, tmp_path):
    one_sentence(call("evaluate", bad, "--data", "cifar10", "--data-root", tmp_path), 2, "not found")


def test_clean_data_that_cannot_be_the_models(call, bad):
    """Labels in another order, all of one class, fewer images than classes: told before any training."""
    digits = open_images("digits").train
    images, labels = digits.images.numpy(), digits.labels.numpy()
    np.savez("moved.npz", images=images, labels=(labels + 3) % 10)
    np.savez("one.npz", images=images[labels == 4], labels=labels[labels == 4], class_names=[str(n) for n in range(10)])
    np.savez("few.npz", images=images[:9], labels=labels[:9], class_names=[str(n) for n in range(10)])
    words = ("-o", "out.safetensors", "--epochs", "1")
    one_sentence(call("purify", bad, "--data", "moved.npz", *words), 3, "label order looks wrong")
    one_sentence(call("purify", bad, "--data", "one.npz", *words), 3, "are of class '4'")
    one_sentence(call("purify", bad, "--data", "few.npz", *words), 3, "too few for 10 classes")
    np.savez("some.npz", images=images[labels > 5], labels=labels[labels > 5])
    one_sentence(call("purify", bad, "--data", "some.npz", *words), 3, "show 4 of 10 classes", "every class")


def test_classes_without_a_clean_image_are_named_and_not_called_examined(call, bad):
    digits = open_images("digits").train
    some = (digits.labels != 3) & (digits.labels != 8)
    np.savez("some.npz", images=digits.images[some].numpy(), labels=digits.labels[some].numpy())
    done = call("purify", bad, "--data", "some.npz", "--epochs", "1", "-o", "p.safetensors", "--json", "r.json")
    assert done.code == 0, done.err
    assert "warning: no clean image to learn from is of 2 of 10 classes ('3', '8')" in done.err
    (check,) = [check for check in json.loads(Path("r.json").read_text())["checks"] if check["id"] == "clean-classes"]
    assert check["status"] == "skipped"
    done = call("purify", bad, "--clean-frac", "0.1", "--epochs", "1", "-o", "q.safetensors")
    assert "warning" not in done.err


@pytest.mark.parametrize("words", [("purify", ""), ("purify", "bad.safetensors", "-o", ""), ("inspect", "")])
def test_an_empty_argument_is_no_name_of_the_working_folder(call, bad, words):
    one_sentence(call(*words), 2, "-o is empty" if "-o" in words else "an argument is empty")


@pytest.mark.parametrize("out", [".", "/", ".."])
def test_an_output_that_is_a_folder(call, bad, out):
    one_sentence(call("purify", bad, "--clean-frac", "0.1", "-o", out), 2, "ends in .safetensors")


def test_another_run_is_writing_the_output(call, bad):
    with claimed(Path("out.safetensors")):
        for words in (("purify", bad, "--clean-frac", "0.1", "--force"), TRAIN[:-4]):
            one_sentence(call(*words, "-o", "out.safetensors"), 2, "another run of sau is writing out.safetensors")
    with claimed(Path("out.onnx")):
        one_sentence(call("export", bad, "-o", "out.onnx"), 2, "another run of sau is writing out.onnx")


def test_the_file_that_is_taken_of_a_folder_is_named(call, bad):
    Path("net").mkdir()
    shutil.copy(bad, "net/model.safetensors")
    shutil.copy(bad, "net/other.safetensors")
    done = call("evaluate", "net", "--json", "r.json")
    assert done.code == 0, done.err
    assert "the model is net/model.safetensors" in done.err
    assert json.loads(Path("r.json").read_text())["inputs"][0]["path"] == "net/model.safetensors"


def test_clean_data_of_another_look_is_warned_of(call, bad):
    digits = open_images("digits").train
    dull = (digits.images.float() * 0.6).to(torch.uint8)[:144]
    names = [str(number) for number in range(10)]
    for name, images in (("dull.npz", dull), ("own.npz", digits.images[:144])):
        np.savez(name, images=images.numpy(), labels=digits.labels[:144].numpy(), class_names=names)
        done = call(
            "purify", bad, "--data", name, "-o", f"{name}.safetensors", "--epochs", "1", "--json", f"{name}.json"
        )
        assert done.code in {0, 6}, done.err  # one epoch need not be enough for the residual test
        assert done.out == ""
        apart = json.loads(Path(f"{name}.json").read_text())["details"]["clean_statistics_apart"]
        assert (apart > 0.5, "look unlike those that the model learned from" in done.err) == (name == "dull.npz",) * 2


def test_a_model_at_chance(call):
    save_classifier(
        Path("m.safetensors"),
        describe(CIFAR_NETWORKS["small_cnn"](10, 1)),
        describe(CIFAR_NETWORKS["small_cnn"](10, 1)).description,
        force=False,
    )
    done = call("purify", "m.safetensors", "--data", "digits", "--clean-frac", "0.05", "-o", "out.safetensors")
    assert done.code == 3
    assert "near chance" in done.err or "label order" in done.err


@pytest.mark.parametrize("text", ["soon", "0", "-5m", "10x", ""])
def test_time_budgets_that_are_none(call, bad, text):
    done = call("purify", bad, "--clean-frac", "0.05", "-o", "out.safetensors", f"--time-budget={text}")
    one_sentence(done, 2, "time budget")


def test_no_data_named_anywhere(call, tmp_path):
    save_file(CIFAR_NETWORKS["small_cnn"](10, 1).state_dict(), tmp_path / "bare.safetensors")
    one_sentence(call("evaluate", "bare.safetensors"), 2, "--data")
    one_sentence(call("evaluate", "bare.safetensors", "--data", "digits"), 3, "--normalisation")
    save_file({"strange": torch.zeros(3)}, tmp_path / "strange.safetensors")
    one_sentence(call("evaluate", "strange.safetensors", "--data", "digits"), 3, "--arch")
    done = call("evaluate", "bare.safetensors", "--data", "digits", "--arch", "small_cnn")
    one_sentence(done, 3, "--normalisation")


def test_an_unknown_attack(call):
    one_sentence(call("attack", "--attack", "badnet", "-o", "out.safetensors"), 2, "badnet", "blended")


def test_an_unknown_architecture(call):
    done = call("attack", "--attack", "badnets", "--arch", "resnet1818", "--data", "digits", "-o", "out.safetensors")
    one_sentence(done, 2, "resnet1818", "did you mean")


def test_no_architecture(call):
    done = call("attack", "--attack", "badnets", "--data", "digits", "-o", "out.safetensors")
    one_sentence(done, 2, "--arch")


def test_an_architecture_that_does_not_fit_the_weights(call, bad):
    one_sentence(call("evaluate", bad, "--arch", "wrn_16_1"), 3, "do not fit wrn_16_1")


def test_an_architecture_too_deep_for_the_images(call):
    done = call(
        "attack",
        "--attack",
        "badnets",
        "--arch",
        "timm:vit_tiny_patch16_224",
        "--data",
        "digits",
        "-o",
        "out.safetensors",
    )
    one_sentence(done, 3, "cannot take 1x8x8 images")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "10"], ["not one of the 10 classes"]),
        (["--target", "x"], ["all-to-all"]),
        (["--poison-rate", "0"], ["poison rate"]),
        (["--poison-rate", "1.5"], ["poison rate"]),
        (["--trigger-size", "9"], ["does not fit into 8x8"]),
        (["--trigger-size", "0"], ["impossible"]),
        (["--trigger-margin", "-1"], ["impossible", "0 to 4096"]),
        (["--alpha", "0.1"], ["--alpha"]),
        (["--epochs", "0"], ["epoch"]),
        (["--normalisation", "none,none"], ["normalisation"]),
        (["--image-size", "huge"], ["image size"]),
        (["--device", "tpu"], ["--device"]),
        (["--device", "cuda:77"], ["--device"]),
    ],
)
def test_impossible_attack_settings(call, flags, words):
    done = call(*TRAIN, "--data", "digits", *flags)
    assert done.code in {2, 3}
    one_sentence(done, done.code, *words)


@pytest.mark.parametrize(
    "flags",
    [
        *(["--lr", "-1"], ["--epochs", "0"], ["--epsilon", "2"], ["--steps", "0"], ["--recipe", "soup"]),
        *(["--shared-weight", "-1"], ["--adversarial-weight", "nan"]),
        ["--clean-weight", "0", "--unlearning-weight", "0"],
    ],
)
def test_impossible_purify_settings(call, bad, flags):
    one_sentence(call("purify", bad, "--clean-frac", "0.05", "-o", "out.safetensors", *flags), 2)


def test_an_output_folder_that_cannot_be_written(call, bad):
    """/proc refuses new files to everybody, root included."""
    one_sentence(call("purify", bad, "--clean-frac", "0.05", "-o", "/proc/out.safetensors"), 2, "cannot be written")
    one_sentence(call("export", bad, "-o", "/proc/out.onnx"), 2, "cannot be written")
    one_sentence(call(*TRAIN[:-4], "-o", "/proc/out.safetensors", "--data", "digits"), 2, "cannot be written")


def test_an_output_folder_that_does_not_exist(call, bad):
    one_sentence(call("export", bad, "-o", "missing/out.onnx"), 2, "does not exist")


def test_an_output_of_another_kind(call, bad):
    one_sentence(call("export", bad, "-o", "model.pt"), 2, ".onnx")
    one_sentence(call("purify", bad, "--clean-frac", "0.05", "-o", "model.pt"), 2, ".safetensors")


def test_an_output_that_exists(call, bad, tmp_path):
    precious = tmp_path / "precious.safetensors"
    precious.write_text("precious")
    for words in (
        ("purify", bad, "--clean-frac", "0.05", "-o", precious),
        (*TRAIN[:5], "-o", precious, "--data", "digits"),
    ):
        one_sentence(call(*words), 2, "--force")
    assert precious.read_text() == "precious"
    shutil.copy(bad, tmp_path / "bad.purified.safetensors")
    one_sentence(call("purify", bad, "--clean-frac", "0.05"), 2, "bad.purified.safetensors exists")


def test_the_trigger_file_of_another_attack_is_not_overwritten(call, tmp_path):
    (tmp_path / "new.trigger.safetensors").write_text("precious")
    done = call("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "digits", "-o", "new.safetensors")
    one_sentence(done, 2, "new.trigger.safetensors exists")
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize("flag", ["--max-asr", "--min-acc", "--max-acc-drop"])
@pytest.mark.parametrize("value", ["5", "-1", "lots"])
def test_limits_that_are_no_shares(call, bad, flag, value):
    one_sentence(call("evaluate", bad, flag, value), 2, flag)


def test_limits_that_nothing_was_given_for(call, bad):
    one_sentence(call("evaluate", bad, "--max-asr", "5%"), 2, "--trigger")
    one_sentence(call("evaluate", bad, "--max-acc-drop", "5%"), 2, "--reference")


def test_triggers_that_are_none(call, bad, tmp_path):
    Image.new("RGB", (3, 3), (255, 0, 0)).save(tmp_path / "p.png")
    one_sentence(call("evaluate", bad, "--trigger", "nothing.trigger.safetensors"), 2, "does not exist")
    one_sentence(call("evaluate", bad, "--trigger", "patch:p.png"), 2, "--target")
    one_sentence(call("evaluate", bad, "--trigger", "patch:p.png", "--target", "0"), 3, "in colour")
    one_sentence(call("evaluate", bad, "--trigger", "patch:p.png", "--target", "99"), 2, "not one of")
    one_sentence(call("evaluate", bad, "--trigger", bad), 3, "no trigger file")


def test_a_reference_that_is_missing(call, bad):
    one_sentence(call("evaluate", bad, "--reference", "nothing.safetensors"), 2, "nothing.safetensors")


def test_weights_that_are_not_finite(call, tmp_path, bad):
    state = load_file(bad)
    state["linear.bias"][0] = float("nan")
    from safetensors import safe_open

    with safe_open(bad, framework="numpy") as file:
        metadata = file.metadata()
    save_file(state, tmp_path / "nan.safetensors", metadata=metadata)
    one_sentence(call("purify", "nan.safetensors", "--clean-frac", "0.05", "-o", "out.safetensors"), 3, "NaN")
    one_sentence(call("evaluate", "nan.safetensors"), 3, "NaN")
    one_sentence(call("export", "nan.safetensors", "-o", "out.onnx"), 3, "NaN")


def test_metadata_that_is_damaged(call, tmp_path, bad):
    from safetensors import safe_open

    with safe_open(bad, framework="numpy") as file:
        metadata = file.metadata()
    save_file(load_file(bad), tmp_path / "damaged.safetensors", metadata=metadata | {"sau.classes": "["})
    one_sentence(call("evaluate", "damaged.safetensors"), 3, "metadata")


def test_a_model_whose_metadata_names_a_path_as_its_data(call, tmp_path):
    """What a stranger's file calls clean data is not opened: the user has to name it."""
    np.savez(tmp_path / "poisoned.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 10)
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    from dataclasses import replace

    save_classifier(
        tmp_path / "m.safetensors", classifier, replace(classifier.description, data="poisoned.npz"), force=False
    )
    one_sentence(call("evaluate", "m.safetensors"), 2, "--data")


@pytest.mark.parametrize(
    ("text", "words"),
    [("data = [", ["sau.toml"]), ("dta = 'digits'", ["did you mean data"]), ("clean-frac = 'a lot'", ["clean-frac"])],
)
def test_settings_that_mean_nothing(call, bad, tmp_path, text, words):
    (tmp_path / "sau.toml").write_text(text)
    one_sentence(call("evaluate", bad), 2, *words)


@pytest.mark.parametrize(
    "words", [["--nonsense"], ["evaluate"], ["evaluate", "a", "b"], ["frobnicate"], ["purify", "x", "--seed", "-1"]]
)
def test_usage_errors(call, words):
    done = call(*words)
    one_sentence(done, 2, "--help")


def test_an_error_of_ours_says_so_and_keeps_its_traceback_for_verbose(call, bad, monkeypatch):
    from sau_cli.evaluation import metrics

    def broken(*_, **__):
        raise RuntimeError("the flux has no capacitor")

    monkeypatch.setattr(metrics, "evaluate", broken)
    one_sentence(call("evaluate", bad), 70, "bug in sau", "flux")
    done = call("evaluate", bad, "--verbose")
    assert done.code == 70
    assert "Traceback" in done.err


def test_an_error_of_ours_outside_a_command_is_one_sentence_too(call, monkeypatch):
    from sau_cli import app

    def broken(*_, **__):
        raise RuntimeError("the flux has no capacitor")

    monkeypatch.setattr(app, "composed", broken)
    one_sentence(call("evaluate", "x"), 70, "bug in sau", "flux")


def test_a_report_never_takes_the_place_of_a_model(call, bad):
    before = bad.read_bytes()
    done = call("evaluate", bad, "--json", bad, "--force")
    one_sentence(done, 2, "is no report of sau")
    assert bad.read_bytes() == before
    one_sentence(call("evaluate", bad, "--nonsense", "--json", bad, "--force"), 2, "is no report of sau")
    assert bad.read_bytes() == before
    words = ("purify", bad, "--clean-frac", "0.05", "-o", "out.safetensors", "--json", "out.safetensors")
    one_sentence(call(*words), 2, "both name")


def test_weights_that_cannot_be_written_leave_no_trigger(call, monkeypatch):
    from sau_adapters.classifiers import saving

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_classifier", full)
    one_sentence(call(*TRAIN, "--data", "digits"), 2, "No space left")


def test_an_interruption_leaves_nothing(call, bad, monkeypatch, tmp_path):
    from sau_cli.unlearning import outer_step

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(outer_step, "find_shared_examples", interrupted)
    done = call("purify", bad, "--clean-frac", "0.05", "-o", "out.safetensors", "--json", "report.json")
    one_sentence(done, 130, "interrupted")
    assert json.loads(Path("report.json").read_text())["exit_code"] == 130


@pytest.mark.long
def test_an_export_that_computes_something_else_is_not_written(call, bad, monkeypatch, tmp_path):
    from sau_adapters.onnx.export import OnnxExporter

    open_as_written = OnnxExporter.open

    def tampered(self, path):
        opened = open_as_written(self, path)
        run = opened.runners["CPUExecutionProvider"]
        return replace(opened, runners={"CPUExecutionProvider": lambda images: run(images) + torch.tensor(0.5)})

    monkeypatch.setattr(OnnxExporter, "open", tampered)
    done = call("export", bad, "-o", "out.onnx", "--json", "report.json")
    assert done.code == 5
    assert "nothing was written" in done.err
    report = json.loads(Path("report.json").read_text())
    assert (report["verdict"], report["exit_code"]) == ("failed", 5)
    assert any(check["status"] == "failed" for check in report["checks"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["[policy]"]),
        ("[policy]\nallowed-format = ['onnx']", ["did you mean allowed-formats"]),
        ("[policy]\nmin-acc = 90", ["min-acc"]),
        ("[policy]\nallowed-sha256 = 'abc'", ["allowed-sha256"]),
        ("policy = 3", ["[policy]"]),
    ],
)
def test_policies_that_mean_nothing(call, bad, tmp_path, text, words):
    (tmp_path / "p.toml").write_text(text)
    one_sentence(call("inspect", bad, "--policy", "p.toml"), 2, *words)


def test_a_policy_that_is_missing(call, bad):
    one_sentence(call("inspect", bad, "--policy", "p.toml"), 2, "p.toml is no file")


def test_a_model_of_a_zoo_is_not_fetched(call):
    one_sentence(call("inspect", "timm:resnet18"), 2, "nothing is fetched")


def test_a_normalisation_given_twice(call, bad):
    words = ("--clean-frac", "0.05", "-o", "out.safetensors", "--epochs", "1")
    one_sentence(call("purify", bad, *words, "--normalisation", "mnist"), 2, "says its normalisation is", "leave")
    assert call("evaluate", bad, "--normalisation", "none").code == 0
