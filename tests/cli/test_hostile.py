"""Inputs that somebody made on purpose, and streams that take nothing: the exit code still tells the truth."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.conftest import one_sentence
from tests.conftest import ROOT
from tests.support.files import TouchesAFile, safetensors_bytes


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata())


def with_metadata(bad: Path, **changes: str) -> str:
    told = metadata_of(bad) | {f"sau.{key}": value for key, value in changes.items()}
    save_file(load_file(bad), "changed.safetensors", metadata=told)
    return "changed.safetensors"


NETWORKS = {
    "ends the process when read": ("import sys\nsys.exit(0)\n", 2),
    "ends the process when built": ("import sys\ndef Net(num_classes): sys.exit(0)\n", 2),
    "ends the process when run": (
        "import sys, torch\nclass Net(torch.nn.Module):\n    def forward(self, x): sys.exit(0)\n",
        3,
    ),
    "raises its own error when run": (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x): raise BufferError('odd\\nly')\n",
        3,
    ),
    "has nothing to train": (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x): return x.flatten(1)[:, :10]\n",
        3,
    ),
    "is no network": ("Net = len\n", 2),
}


@pytest.mark.parametrize(("text", "code"), NETWORKS.values(), ids=NETWORKS.keys())
def test_a_users_network_that_misbehaves(call, text, code):
    Path("net.py").write_text(text)
    words = ("--attack", "badnets", "--arch", "net.py:Net", "--data", "digits", "--epochs", "1")
    one_sentence(call("attack", *words, "-o", "out.safetensors"), code)
    assert not Path("out.safetensors").exists()


@pytest.mark.long
def test_what_a_network_prints_does_not_reach_standard_output(sau, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom sau_adapters.architectures.cifar_networks.small_cnn import SmallCNN\nprint('reading')\n"
        "def Net(num_classes, in_channels):\n    print('building')\n    return SmallCNN(num_classes, in_channels)\n"
    )
    words = ("--attack", "badnets", "--arch", "net.py:Net", "--data", "digits", "--epochs", "1")
    done = sau("attack", *words, "-o", "out.safetensors", "--json", "-", cwd=tmp_path)
    assert done.code == 0
    assert json.loads(done.out)["command"] == "attack"
    assert "building" in done.err


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_before_the_damage_is_found(call, protocol, tmp_path):
    whole = pickle.dumps(TouchesAFile(tmp_path / "was-run"), protocol=protocol)
    Path("cut.pkl").write_bytes(whole[:-1])
    done = call("inspect", "--effort", "quick", "cut.pkl")
    if protocol == 0:  # nothing marks it as a pickle, and it does not parse
        assert done.code in {3, 4}
    else:
        assert done.code == 4
        assert "open" in done.err
    assert not (tmp_path / "was-run").exists()


@pytest.mark.long
def test_a_zip_bomb_is_not_unpacked(call, bad):
    with zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}." + b"." * 400_000_000)
    done = call("inspect", "--effort", "quick", "bomb.pt")
    assert done.code == 4
    assert "zip bomb" in done.err
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"0" * 400_000_000)
    one_sentence(call("evaluate", bad, "--data", "bomb.npz"), 4, "zip bomb")


def an_onnx_file(**changes: object) -> str:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.0, 1.0])
    for key, value in changes.items():
        if key == "dims":
            tensor.dims[:] = value
        elif key == "location":
            tensor.ClearField("float_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=value)
        else:
            setattr(tensor, key, value)
    node = helper.make_node("Identity", ["w"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [out], [tensor])), "x.onnx")
    return "x.onnx"


@pytest.mark.parametrize(
    "changes",
    [{"location": "/etc/passwd"}, {"location": "../secret"}, {"location": ""}, {"dims": [-5]}, {"dims": [2**62]}],
)
def test_onnx_files_that_lie_or_reach_outside(call, changes):
    done = call("inspect", "--effort", "quick", an_onnx_file(**changes), "--json", "r.json")
    assert done.code == 4
    assert json.loads(Path("r.json").read_text())["verdict"] == "unsafe"


def test_onnx_files_that_reach_outside_from_within_a_function(call):
    model = onnx.load(an_onnx_file())
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.0, 1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    model.functions.append(helper.make_function("d", "F", [], ["y"], [node], [helper.make_opsetid("", 18)]))
    onnx.save(model, "x.onnx")
    assert call("inspect", "x.onnx").code == 4


def test_onnx_files_that_do_neither(call):
    done = call("inspect", "--effort", "quick", an_onnx_file(location="beside.bin"))
    assert done.code == 3, "its weights are missing"
    assert "beside.bin" in done.err
    one_sentence(call("inspect", "--effort", "quick", an_onnx_file(data_type=99)), 3)


def test_a_header_with_a_name_twice(call):
    entry = '"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    Path("twice.safetensors").write_bytes(safetensors_bytes(f"{{{entry}, {entry}}}".encode(), b"\0" * 4))
    done = call("inspect", "--effort", "quick", "twice.safetensors")
    assert done.code == 4
    assert "twice" in done.err


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"input": '{"channels": 1, "height": 60000, "width": 60000}'}, 3),
        ({"architecture": "timm:eva_giant_patch14_224"}, 3),
        ({"architecture": "no_such_network"}, 3),
        ({"mean": "[1e999]"}, 3),
        ({"std": "[" + "9" * 400 + "]"}, 3),
        ({"history": '[{"step": "x", "settings": ' + '{"a":' * 300 + "1" + "}" * 300 + ', "seed": 0}]'}, 3),
        ({"classes": json.dumps(["same"] * 10)}, 3),
    ],
)
def test_metadata_that_cannot_be_true(call, bad, changes, code):
    one_sentence(call("evaluate", with_metadata(bad, **changes), "--data", "digits"), code)


def test_two_models_whose_classes_are_in_another_order_are_compared_by_name(call, bad):
    names = [str(number) for number in (3, 1, 2, 0, 4, 5, 6, 7, 8, 9)]
    changed = with_metadata(bad, classes=json.dumps(names))
    state = load_file(changed)
    order = torch.tensor([int(name) for name in names])
    for key in ("linear.weight", "linear.bias"):
        state[key] = state[key][order].contiguous()
    save_file(state, "moved.safetensors", metadata=metadata_of(Path(changed)))
    assert call("evaluate", bad, "--reference", "moved.safetensors", "--json", "r.json").code == 0
    found = {check["id"]: check["value"] for check in json.loads(Path("r.json").read_text())["checks"]}
    assert found["acc"] == found["reference.acc"]


def npz(**arrays: np.ndarray) -> str:
    np.savez("d.npz", **arrays)
    return "d.npz"


IMAGES = np.zeros((20, 8, 8), np.uint8)
LABELS = np.arange(20) % 10


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": IMAGES, "labels": np.full(20, 2**62)},
        {"images": IMAGES, "labels": LABELS, "class_names": np.array(5)},
        {"images": IMAGES, "labels": LABELS, "class_names": np.array(["a"] * 10)},
        {"images": np.zeros((20, 0, 8), np.uint8), "labels": LABELS},
        {"images": np.array(7, np.uint8), "labels": LABELS},
        {"images": IMAGES, "labels": -LABELS},
    ],
)
def test_arrays_that_are_no_images(call, bad, arrays):
    one_sentence(call("evaluate", bad, "--data", npz(**arrays)), 3)
    train = ("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "d.npz", "--epochs", "1")
    one_sentence(call(*train, "-o", "out.safetensors"), 3)


def test_members_of_an_npz_that_are_no_arrays(call, bad):
    with zipfile.ZipFile("d.npz", "w") as archive:
        archive.writestr("images.npy", b"nonsense")
        archive.writestr("labels.npy", b"nonsense")
    one_sentence(call("evaluate", bad, "--data", "d.npz"), 3)


def test_pictures_of_16_bits_are_scaled_and_of_32_refused(tmp_path):
    from sau_adapters.images.sources import open_images
    from sau_cli.errors import NotEvaluable

    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)).save(tmp_path / "d" / name / "x.png")
    assert open_images(str(tmp_path / "d")).train.images.unique().tolist() == [100]
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "d" / "a" / "x.tiff")
    with pytest.raises(NotEvaluable, match="32-bit"):
        open_images(str(tmp_path / "d"))


@pytest.mark.parametrize("flags", [["--atol", "inf"], ["--rtol", "nan"], ["--atol", "-1"], ["--atol", "1e309"]])
def test_tolerances_that_prove_nothing(call, bad, flags):
    one_sentence(call("export", bad, "-o", "out.onnx", *flags), 2, "prove nothing")
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--trigger-size", "100000"],
        ["--batch-size", "9" * 26],
        ["--image-size", "9" * 5000],
        ["--target", "9" * 5000],
        ["--device", "cuda:²"],
        ["--normalisation", "0/inf"],
        ["--lr", "inf"],
    ],
)
def test_absurd_numbers(call, flags):
    words = ("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "digits", "-o", "out.safetensors")
    one_sentence(call(*words, *flags), 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "tool = 1"),
        ("pyproject.toml", "[tool]\nsau = []"),
        ("pyproject.toml", "[[tool.sau]]"),
        ("sau.toml", "data = " + "[" * 5000),
        ("sau.toml", "clean-frac = " + "1" * 5000),
    ],
)
def test_settings_that_mean_nothing(call, bad, name, text):
    Path(name).write_text(text)
    one_sentence(call("evaluate", bad), 2, name)


def test_devices_pipes_and_links_are_no_place_for_results(call, bad):
    os.mkfifo("pipe")
    one_sentence(call("inspect", "--effort", "quick", bad, "--force", "--json", "pipe"), 2, "a device or a pipe")
    Path("loop").symlink_to("loop")
    one_sentence(call("inspect", "--effort", "quick", bad, "--force", "--json", "loop"), 2)
    Path("link").symlink_to("target.json")
    one_sentence(call("inspect", "--effort", "quick", bad, "--json", "link"), 2, "is a link")
    assert call("inspect", "--effort", "quick", bad, "--json", "link", "--force").code == 0
    assert Path("link").is_symlink()
    assert json.loads(Path("target.json").read_text())["command"] == "inspect"


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_names_that_no_file_can_have(call, command):
    one_sentence(call(command, "x" * 300), 2)


def test_a_path_with_an_at_sign(call, bad):
    Image.new("L", (3, 3), 255).save("p@0.5.png")
    assert call("evaluate", bad, "--trigger", "patch:p@0.5.png", "--target", "0").code == 0
    assert call("evaluate", bad, "--trigger", "blend:p@0.5.png@0.2", "--target", "0").code == 0


def test_a_target_that_is_not_the_trigger_files_own(call, bad):
    done = call("evaluate", bad, "--trigger", "bad.trigger.safetensors", "--target", "3", "--max-asr", "5%")
    one_sentence(done, 2, "all-to-one, class 0", "leave --target out")
    assert call("evaluate", bad, "--trigger", "bad.trigger.safetensors", "--target", "0").code == 0
    Image.new("RGBA", (3, 3), (255, 255, 255, 255)).save("white.png")
    words = ("--trigger", "bad.trigger.safetensors", "--trigger", "patch:white.png", "--target", "0")
    assert call("evaluate", bad, *words, "--json", "r.json").code == 0
    found = {check["id"]: check["value"] for check in json.loads(Path("r.json").read_text())["checks"]}
    assert found["asr.white"] == found["asr.badnets"] > 0.9


def test_classes_that_are_only_partly_named_as_the_models(call, bad):
    names = np.array([*map(str, range(1, 10)), "z0"])
    done = call("evaluate", bad, "--data", npz(images=IMAGES, labels=LABELS, class_names=names))
    one_sentence(done, 3, "a class 'z0' that the model lacks")
    names = np.array([f"digit {number}" for number in range(10)])
    done = call("evaluate", bad, "--data", npz(images=IMAGES, labels=LABELS, class_names=names))
    assert done.code == 0
    assert "matched by their order" in done.err


def test_confidence_without_a_limit(call, bad):
    one_sentence(call("evaluate", bad, "--confident"), 2, "--max-asr")


def test_a_target_without_a_trigger(call, bad):
    one_sentence(call("evaluate", bad, "--target", "3"), 2, "--trigger")


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("inspect bad.safetensors --effort quick --json - > /dev/full", 2),
        ("inspect bad.safetensors --effort quick --json - >&-", 2),
        ("inspect bad.safetensors --effort quick 2> /dev/full", 0),
        ("inspect nothing.safetensors 2> /dev/full", 2),
        (
            "inspect bad.safetensors --effort quick --json - 2> /dev/full | head -c 9 >/dev/null; exit ${PIPESTATUS[0]}",  # noqa: E501
            0,
        ),
        ("--help > /dev/full", 2),
    ],
)
def test_streams_that_take_nothing(planted, shell, code):
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
    command = f"{sys.executable} -m sau_cli {shell}".replace("bad.safetensors", str(planted / "bad.safetensors"))
    done = subprocess.run(
        ["bash", "-c", command], env=settings, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == (code != 0 and "2>" not in shell)


def outside(weights: str = "weights.bin") -> Path:
    """A graph that keeps its weights in a file beside it."""
    from tests.support.graphs import linear_graph

    path = linear_graph(Path("x.onnx"), np.random.default_rng(0).random((64, 10), dtype=np.float32))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=weights, size_threshold=0)
    return path


def test_weights_beside_a_graph_are_a_part_of_what_is_known(call):
    import hashlib

    path = outside()
    known = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in ("x.onnx", "weights.bin")]
    words = ("inspect", path, "--effort", "quick", "--policy", "p.toml", "--json", "r.json", "--force")
    Path("p.toml").write_text(f"[policy]\nallowed-sha256 = {json.dumps(known)}\n")
    assert call(*words).code == 0
    assert [file["sha256"] for file in json.loads(Path("r.json").read_text())["inputs"]] == known
    weights = bytearray(Path("weights.bin").read_bytes())
    weights[3] ^= 1
    Path("weights.bin").write_bytes(weights)
    assert call(*words).code == 1
    Path("weights.bin").unlink()
    assert call(*words).code == 1


def test_weights_of_one_name_in_two_folders_are_both_looked_at(call):
    model = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", [], [], [])
    model.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2]))
    for name in "ab":
        Path(name).mkdir()
        Path(name, "w.bin").write_bytes(np.array([ord(name), 0], dtype=np.float32).tobytes())
        tensor = helper.make_tensor(name, TensorProto.FLOAT, [2], [0.0, 1.0])
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{name}/w.bin")
        model.initializer.append(tensor)
    onnx.save(helper.make_model(model), "x.onnx")
    assert call("inspect", "x.onnx", "--effort", "quick", "--json", "r.json").code == 0
    inputs = json.loads(Path("r.json").read_text())["inputs"]
    assert [file["path"] for file in inputs] == ["x.onnx", "a/w.bin", "b/w.bin"]


def test_a_sparse_constant_that_reaches_outside_the_folder(call):
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])
    values.ClearField("float_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="../secret")
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    node = helper.make_node("Constant", [], ["y"], sparse_value=helper.make_sparse_tensor(values, places, [2]))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [out])), "x.onnx")
    assert call("inspect", "x.onnx").code == 4


@pytest.mark.parametrize(
    "flags", [("--arch", "no_such_net"), ("--image-size", "bogus"), ("--normalisation", "imagenett")]
)
def test_a_flag_that_means_nothing_is_never_passed_over(call, bad, flags):
    one_sentence(call("inspect", bad, *flags), 2, flags[1])


def test_a_signature_that_was_asked_for_is_never_passed_over(call, bad):
    words = ("--effort", "quick", "--public-key", "k.pub", "--json", "r.json", "--force")
    from tests.support.graphs import linear_graph

    plain = linear_graph(Path("x.onnx"), np.zeros((64, 10), dtype=np.float32))
    for model in (bad, plain):
        assert call("inspect", model, *words).code == 1
        checks = {check["id"]: check["status"] for check in json.loads(Path("r.json").read_text())["checks"]}
        assert checks["chain.signature"] == "failed"


def test_what_refuses_a_file_stands_whatever_comes_after(call):
    path = an_onnx_file(location="../secret")
    Path("x.onnx.cdx.json").write_text('{"metadata": {"component": {"hashes": 5}}}')
    words = ("--public-key", "none.pub", "--json", "r.json")
    assert call("inspect", path, *words).code == 4
    assert json.loads(Path("r.json").read_text())["verdict"] == "unsafe"


def test_half_a_character_in_a_class_name_costs_no_report(call, bad):
    path = with_metadata(bad, classes=json.dumps(["\ud800", *"123456789"]))
    done = call("inspect", path, "--effort", "quick", "--report", "r.html", "--report", "r.sarif")
    assert done.code == 3
    assert "damaged" in Path("r.html").read_text()
    assert "damaged" in Path("r.sarif").read_text()


def test_names_that_are_no_text_cost_no_report(call, bad):
    from sau_cli.reporting.sarif import uri_of

    assert uri_of("b\udcffd.safetensors") == "b%FFd.safetensors"


def test_names_with_markup_are_shown_as_they_are(call, planted, tmp_path):
    (tmp_path / "x[").mkdir()
    for name in ("x[/y].safetensors", "z.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((planted / "bad.safetensors").read_bytes())
    done = call("inspect", ".", "--effort", "quick")
    assert done.code == 0, done.err
    assert "x[/y].safetensors" in done.err


def test_a_picture_takes_no_other_files_place(call, bad):
    before = bad.read_bytes()
    words = ("attack", bad, "--attack", "badnets", "--data", "digits", "--force")
    one_sentence(call(*words, "--preview", bad), 2, "--preview", ".png")
    one_sentence(call(*words, "-o", "b.safetensors", "--preview", "b.safetensors"), 2, "--preview")
    bad.rename("bad.png")
    one_sentence(call("attack", "bad.png", *words[2:], "--preview", "bad.png"), 2, "--preview")
    assert Path("bad.png").read_bytes() == before
    one_sentence(call("export", "bad.png", "-o", "bad.onnx", "--json", "bad.onnx.intoto.json"), 2, "both name")
    Path("bad.png").rename("bad.onnx")
    one_sentence(call("export", "bad.onnx", "-o", "bad.onnx", "--force"), 2, "is the model itself")
    one_sentence(call("inspect", "bad.onnx", "--json", "r.md", "--report", "r.md"), 2, "both name")


def test_a_picture_that_another_program_would_draw_is_not_opened(call, bad, monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    Path("bin").mkdir()
    Path("bin/gs").write_text("#!/bin/sh\ntouch ran\n")
    Path("bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"bin{os.pathsep}{os.environ['PATH']}")
    drawn = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for name in ("eps.png", "clean/0/a.png", "clean/1/b.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(drawn)
    one_sentence(call("evaluate", bad, "-t", "patch:eps.png", "--target", "0"), 3, "picture")
    one_sentence(call("evaluate", bad, "--data", "clean"), 3, "picture")
    assert not Path("ran").exists()


def test_a_trigger_whose_name_would_write_on_the_terminal(call, bad):
    tensors, metadata = read_header_of("bad.trigger.safetensors")
    told = json.loads(metadata["sau.trigger"])
    metadata["sau.trigger"] = json.dumps(told | {"name": "x\x1b[2J\nACC 100 %"})
    save_file(tensors, "odd.trigger.safetensors", metadata=metadata)
    done = call("evaluate", bad, "-t", "odd.trigger.safetensors")
    assert done.code == 0, done.err
    assert "\x1b" not in done.err
    assert "x?[2J?ACC 100 %" in done.err
    for target in (0.7, True, "0"):
        metadata["sau.trigger"] = json.dumps(told | {"target": target})
        save_file(tensors, "odd.trigger.safetensors", metadata=metadata)
        one_sentence(call("evaluate", bad, "-t", "odd.trigger.safetensors"), 3, "incomplete")


def read_header_of(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def test_a_model_with_its_classes_in_another_order_does_not_hide_its_backdoor(call, bad):
    tensors, metadata = read_header_of(bad)
    turned = {name: tensor.flip(0) if name.startswith("linear.") else tensor for name, tensor in tensors.items()}
    names = json.dumps(json.loads(metadata["sau.classes"])[::-1])
    save_file(turned, "turned.safetensors", metadata=metadata | {"sau.classes": names})
    values = []
    for words in (("evaluate", bad), ("evaluate", "turned.safetensors", "-r", bad)):
        call(*words, "-t", "bad.trigger.safetensors", "--json", "r.json", "--force")
        checks = {check["id"]: check["value"] for check in json.loads(Path("r.json").read_text())["checks"]}
        values.append((checks["acc"], checks["asr.badnets"]))
    assert values[0] == values[1]
    assert values[0][1] > 0.9
    assert checks["reference.asr.badnets"] == values[0][1]
