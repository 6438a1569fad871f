"""``sau export``: proven in every respect, or nothing at OUT; and where the file comes from."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sau_adapters.images.sources import open_images
from sau_adapters.onnx import onnx_files
from sau_adapters.onnx.export import OnnxExporter
from sau_cli.exporting.verification import provider_id
from tests.cli.conftest import one_sentence
from tests.conftest import ROOT, Finished, made_once, run_here

TRIGGER = ("--trigger", "bad.trigger.safetensors")


def report(path: str = "r.json") -> dict:
    return json.loads(Path(path).read_text())


def checks(path: str = "r.json") -> dict[str, dict]:
    return {check["id"]: check for check in report(path)["checks"]}


def nothing_at(name: str, folder: Path | None = None) -> None:
    """Neither the file, nor one beside it, nor a temporary one."""
    stem = name.removesuffix(".onnx")
    names = [path.name for path in (folder or Path()).iterdir()]
    assert [file for file in names if file.startswith((name, f"{stem}.rejected", f".{stem}."))] == []


def run_bare(path: str, feed: np.ndarray) -> np.ndarray:
    """What a service does: onnxruntime and a file, none of our code."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    (answers,) = session.run(None, {taken.name: feed})
    return answers


@pytest.fixture(scope="session")
def once(planted, tmp_path_factory) -> Path:
    """A folder with an export, its sidecars and its report. Read only."""

    def export(folder: Path) -> None:
        for name in ("bad.safetensors", "bad.trigger.safetensors"):
            shutil.copy(planted / name, folder)
        done = run_here("export", "bad.safetensors", "-o", "m.onnx", *TRIGGER, "--json", "r.json", cwd=folder)
        assert done.code == 0, done.err

    return made_once(tmp_path_factory, "exported", export)


@pytest.fixture
def exported(once, bad) -> Path:
    """The same in the working folder."""
    for path in once.iterdir():
        shutil.copy(path, bad.parent)
    return Path("m.onnx")


def tamper(path: Path, amount: float = 1.0) -> None:
    """Change one weight of the last layer."""
    model = onnx.load(str(path))
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [10, 256])
    array = numpy_helper.to_array(weight).copy()
    array[3, 5] += amount
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, str(path))


def test_all_is_checked_and_said(call, exported):
    found = checks()
    for name in ("checker", "batch-axis", "logits", "agreement", "accuracy", "asr.badnets"):
        assert found[f"export.{name}"]["status"] == "passed", name
    for size in (1, 2, 7, 256):
        assert found[f"export.batch-{size}"]["status"] == "passed"
    verification = report()["details"]["verification"]
    assert verification["accuracy"] == verification["exported_accuracy"]
    (row,) = verification["triggers"]
    assert row["asr"] == row["exported_asr"]
    assert row["asr"]["total"] == 324
    available = set(onnxruntime.get_available_providers())
    told = {check for check in found if check.startswith("export.provider.")}
    assert told == {provider_id(provider) for provider in available - {"CPUExecutionProvider"}}
    speed = report()["details"]["speed"]
    assert min(speed["pytorch_ms"], speed["exported_ms"], speed["pytorch_rate"], speed["exported_rate"]) > 0


@pytest.mark.long
def test_a_baked_file_takes_bytes_and_gives_probabilities(call, bad):
    assert call("export", bad, "-o", "b.onnx", "--bake-preprocessing", *TRIGGER, "--json", "r.json").code == 0
    assert {"export.probabilities", "export.logits"} <= set(checks())
    test = open_images("digits").test
    feed = np.ascontiguousarray(test.images.permute(0, 2, 3, 1).numpy())
    assert feed.dtype == np.uint8
    probabilities = run_bare("b.onnx", feed)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    accuracy = float((probabilities.argmax(1) == test.labels.numpy()).mean())
    assert accuracy == pytest.approx(checks()["export.accuracy"]["value"])
    about = {entry.key: entry.value for entry in onnx.load("b.onnx").metadata_props}
    fed = json.loads(about["sau.preprocessing"])
    assert (fed["layout"], fed["dtype"], fed["range"], fed["output"]) == ("NHWC", "uint8", [0, 255], "probabilities")
    assert call("evaluate", "b.onnx", *TRIGGER, "--json", "e.json").code == 0
    assert checks("e.json")["acc"]["value"] == pytest.approx(accuracy)


@pytest.mark.long
@pytest.mark.parametrize(("flags", "form"), [(("--precision", "fp16"), "fp16"), (("--quantize", "int8"), "int8")])
def test_smaller_forms_have_limits_of_their_own(call, bad, exported, flags, form):
    assert call("export", bad, "-o", "s.onnx", *flags, *TRIGGER, "--json", "s.json").code == 0
    told = report("s.json")["details"]
    assert told["form"].startswith(form)
    assert told["graph"]["exported_accuracy"] == told["graph"]["accuracy"]  # the exact graph was proven first
    found = checks("s.json")
    assert "may fall by" in found["export.accuracy"]["evidence"]
    assert "may rise by" in found["export.asr.badnets"]["evidence"]
    assert found["export.logits"]["status"] == "measured"
    assert Path("s.onnx").stat().st_size < 0.75 * exported.stat().st_size
    images = open_images("digits").test.images[:5].numpy().astype(np.float32) / 255
    assert run_bare("s.onnx", images).shape == (5, 10)


@pytest.mark.long
def test_a_backdoor_that_quantising_wakes_is_caught(call, bad, monkeypatch):
    """An 8-bit file that sends every image of the trigger to its target, of a model that does not."""
    from sau_adapters.onnx import onnx_forms
    from sau_adapters.onnx.export import onnx_forms as used

    done = call("purify", bad, "--clean-frac", "0.2", "--recipe", "paper", "--lr", "2e-3", "--epochs", "20", "-q")
    assert done.code == 0
    quantise = onnx_forms.quantised

    def waking(source, out, images, *, method):
        """The graph of the received model, which has the backdoor, in place of the purified one."""
        quantise(Path("backdoored.onnx").resolve(), out, images, method=method)

    assert call("export", bad, "-o", "backdoored.onnx", "-q").code == 0
    monkeypatch.setattr(used, "quantised", waking)
    done = call(
        "export", "bad.purified.safetensors", "-o", "q.onnx", "--quantize", "int8", *TRIGGER, "--json", "r.json"
    )
    assert done.code == 5
    assert checks()["export.asr.badnets"]["status"] == "failed"
    nothing_at("q.onnx")


@pytest.mark.long
def test_limits_of_smaller_forms_are_the_users(call, bad):
    flags = ("--quantize", "int8", "--max-acc-drop", "50%", "--max-asr-rise", "50%")
    assert call("export", bad, "-o", "q.onnx", *flags, *TRIGGER, "--json", "r.json").code == 0
    assert "may fall by 50.00%" in checks()["export.accuracy"]["evidence"]
    one_sentence(call("export", bad, "-o", "x.onnx", "--max-acc-drop", "1%"), 2, "add --precision or --quantize")
    one_sentence(call("export", bad, "-o", "x.onnx", "--quantize", "int8", "--precision", "fp16"), 2, "give one")
    nothing_at("x.onnx")


@pytest.mark.long
def test_a_weight_that_changes_while_exporting_is_caught(call, bad, monkeypatch):
    write = OnnxExporter.write

    def changed(self, classifier, path, way):
        write(self, classifier, path, way)
        tamper(path, 0.01)

    monkeypatch.setattr(OnnxExporter, "write", changed)
    done = call("export", bad, "-o", "m.onnx", "--keep-rejected", "--json", "r.json")
    assert done.code == 5
    assert "export.logits" in done.err
    assert len(report()["details"]["attempts"]) == 4
    assert not Path("m.onnx").exists()
    assert Path("m.rejected.onnx").is_file()
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
    assert call("export", bad, "-o", "n.onnx", "--json", "n.json").code == 5
    nothing_at("n.onnx")


@pytest.mark.long
def test_the_other_exporter_is_tried(call, bad, monkeypatch):
    write = OnnxExporter.write

    def changed(self, classifier, path, way):
        write(self, classifier, path, way)
        if way.startswith("dynamo"):
            tamper(path)

    monkeypatch.setattr(OnnxExporter, "write", changed)
    done = call("export", bad, "-o", "m.onnx", "--json", "r.json")
    assert done.code == 0
    told = report()["details"]
    assert told["way"] == "torchscript, simplified"
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["rejected", "rejected", "proven"]
    assert "dynamo: rejected" in done.err
    assert call("inspect", "--effort", "quick", "m.onnx").code == 0


@pytest.mark.long
def test_a_size_that_the_graph_does_not_take_is_caught(call, bad):
    """The digits classifier pools to a fixed grid, which both exporters get wrong for other sizes."""
    done = call("export", bad, "-o", "m.onnx", "--dynamic-size", "--json", "r.json")
    assert done.code == 5
    assert checks()["export.size-16x16"]["status"] == "failed"
    nothing_at("m.onnx")
    one_sentence(call("export", bad, "-o", "m.onnx", "--largest-size", "16"), 2, "add --dynamic-size")


@pytest.mark.long
def test_random_images_where_there_is_no_data(call, bad):
    with safe_open(bad, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "sau.data"}
    save_file(load_file(bad), "alone.safetensors", metadata=metadata)
    done = call("export", "alone.safetensors", "-o", "m.onnx", "--json", "r.json")
    assert done.code == 0
    assert "random images" in done.err
    assert checks()["export.accuracy"]["status"] == "skipped"
    assert "256 random images" in checks()["export.logits"]["evidence"]
    about = {entry.key: entry.value for entry in onnx.load("m.onnx").metadata_props}
    assert json.loads(about["sau.verification"])["real_images"] is False
    one_sentence(call("export", "alone.safetensors", "-o", "q.onnx", "--quantize", "int8"), 2, "needs clean images")
    one_sentence(call("export", "alone.safetensors", "-o", "q.onnx", *TRIGGER), 2, "needs clean images")
    nothing_at("q.onnx")


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", ["7", "99", "eighteen"])
def test_an_opset_out_of_range(call, bad, opset):
    one_sentence(call("export", bad, "-o", "m.onnx", "--opset", opset), 2, "--opset")
    nothing_at("m.onnx")


def test_the_opset_is_the_one_that_was_asked_for(call, bad):
    assert call("export", bad, "-o", "m.onnx", "--opset", "21", "-q").code == 0
    assert onnx.load("m.onnx").opset_import[0].version == 21


@pytest.mark.long
def test_no_execution_provider(call, bad, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", list)
    one_sentence(call("export", bad, "-o", "m.onnx"), 3, "no execution provider")
    nothing_at("m.onnx")


def test_a_provider_that_does_not_work_is_not_a_failure(call, bad, monkeypatch):
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    assert call("export", bad, "-o", "m.onnx", "--json", "r.json").code == 0
    assert checks()["export.provider.cuda"]["status"] == "skipped"


@pytest.mark.long
def test_answers_that_are_not_numbers(call, bad, monkeypatch):
    opened = OnnxExporter.open

    def not_numbers(self, path):
        found = opened(self, path)
        run = found.runners["CPUExecutionProvider"]
        return replace(found, runners={"CPUExecutionProvider": lambda images: run(images) * float("nan")})

    monkeypatch.setattr(OnnxExporter, "open", not_numbers)
    assert call("export", bad, "-o", "m.onnx", "--json", "r.json").code == 5
    assert checks()["export.logits"]["value"] is None
    nothing_at("m.onnx")


@pytest.mark.long
def test_places_beside_that_are_taken(call, bad):
    Path("m.onnx.cdx.json").write_text("mine")
    one_sentence(call("export", bad, "-o", "m.onnx"), 2, "m.onnx.cdx.json exists")
    assert Path("m.onnx.cdx.json").read_text() == "mine"
    assert not Path("m.onnx").exists()
    assert call("export", bad, "-o", "m.onnx", "--force").code == 0


@pytest.mark.long
def test_a_disk_that_is_full_half_way(sau, bad, tmp_path):
    """Files may not grow beyond a part of what the graph takes."""
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from sau_cli.app import main\n"
        "main(sys.argv[1:])\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = _run_script(script, "export", bad, "-o", "m.onnx", cwd=tmp_path)
    one_sentence(done, 2, "m.onnx could not be written", "nothing was left")
    nothing_at("m.onnx", tmp_path)
    done = _on_a_full_disk(sau, bad, tmp_path)
    if done is not None:
        one_sentence(done, 2, "could not be written", "No space left")


def _run_script(script: Path, *words: object, cwd: Path) -> Finished:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def _on_a_full_disk(sau, bad: Path, folder: Path) -> Finished | None:
    """The same on a file system of 300 kB, where this machine lets us make one: the graph fits, its sidecars do not."""
    place = folder / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=280k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        return None
    try:
        done = sau("export", bad, "-o", place / "m.onnx", cwd=folder)
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
    return done


# --- where it comes from -------------------------------------------------------------------------------------------


def test_the_chain_holds_until_a_weight_is_changed(call, exported):
    done = call("inspect", "--effort", "quick", exported, "--json", "i.json")
    assert done.code == 0
    assert "Chain" in done.err
    found = checks("i.json")
    for name in ("history", "file", "statement", "received", "trigger", "bill"):
        assert found[f"chain.{name}"]["status"] == "passed", name
    assert found["chain.signature"]["status"] == "skipped"
    assert report("i.json")["verdict"] == "measured"  # a chain that holds says nothing of behaviour
    tamper(exported, 1e-6)
    done = call("inspect", "--effort", "quick", exported, "--json", "i2.json")
    assert done.code == 1
    assert {name for name, check in checks("i2.json").items() if check["status"] == "failed"} == {
        "chain.file",
        "chain.bill",
    }


def test_the_chain_through_purification(call, bad):
    learned = ("--clean-frac", "0.1", "--recipe", "paper", "--epochs", "1", "-q")
    assert call("purify", bad, *learned).code in {0, 6}  # one epoch clears nothing
    assert call("export", "bad.purified.safetensors", "-o", "m.onnx", "--json", "r.json").code == 0
    statement = json.loads(Path("m.onnx.intoto.json").read_text())
    told = {
        dependency["annotations"]["role"]: dependency["digest"]["sha256"]
        for dependency in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    from sau_adapters.files import sha256_of

    assert told == {"received": sha256_of(bad), "purified": sha256_of(Path("bad.purified.safetensors"))}
    assert statement["subject"][0]["digest"]["sha256"] == sha256_of(Path("m.onnx"))
    assert call("inspect", "--effort", "quick", "m.onnx").code == 0
    Path("bad.purified.safetensors").write_bytes(bad.read_bytes())
    assert call("inspect", "--effort", "quick", "m.onnx", "--json", "i.json").code == 1
    assert checks("i.json")["chain.purified"]["status"] == "failed"


def test_a_history_that_does_not_join(call, exported):
    model = onnx.load(str(exported))
    for entry in model.metadata_props:
        if entry.key == "sau.source_sha256":
            entry.value = "0" * 64
    onnx.save(model, str(exported))
    assert call("inspect", "--effort", "quick", exported, "--json", "i.json").code == 1
    assert checks("i.json")["chain.history"]["status"] == "failed"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"subject": 3, "predicate": []}', '{"subject": [1, {}]}'])
def test_statements_that_are_none(call, exported, content):
    Path("m.onnx.intoto.json").write_text(content)
    assert call("inspect", "--effort", "quick", exported, "--json", "i.json").code == 1
    assert checks("i.json")["chain.file"]["status"] == "failed"


def test_a_statement_that_is_no_file(call, exported):
    Path("m.onnx.intoto.json").unlink()
    Path("m.onnx.intoto.json").symlink_to("nowhere")
    assert call("inspect", "--effort", "quick", exported, "--json", "i.json").code == 1
    assert checks("i.json")["chain.file"]["status"] == "failed"


def test_a_statement_never_makes_other_files_be_read(call, exported):
    told = json.loads(Path("m.onnx.intoto.json").read_text())
    secret = Path("..") / "secret"
    secret.write_text("x")
    for dependency in told["predicate"]["buildDefinition"]["resolvedDependencies"]:
        dependency["name"] = "../secret"
    Path("m.onnx.intoto.json").write_text(json.dumps(told))
    call("inspect", "--effort", "quick", exported, "--json", "i.json")
    assert "chain.received" not in checks("i.json")


def test_the_sidecars_are_what_others_read(call, exported):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from google.protobuf.json_format import Parse
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    text = Path("m.onnx.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    component = json.loads(text)["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    metrics = {
        (metric["type"], metric["slice"]): metric
        for metric in component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    accuracy = checks()["export.accuracy"]
    found = metrics["accuracy", "clean images"]
    assert float(found["value"]) == pytest.approx(accuracy["value"], rel=1e-5)
    interval = [float(found["confidenceInterval"][end]) for end in ("lowerBound", "upperBound")]
    assert interval == pytest.approx(accuracy["ci95"], rel=1e-5)
    assert ("attack success rate", "badnets") in metrics
    message = Parse(Path("m.onnx.intoto.json").read_text(), Message())
    Statement.copy_from_pb(message).validate()


def test_signing(call, bad, monkeypatch):
    for words in (
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"),
        ("ec", "-in", "key.pem", "-pubout", "-out", "key.pub"),
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "other.pem"),
        ("ec", "-in", "other.pem", "-pubout", "-out", "other.pub"),
    ):
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    pytest.importorskip("model_signing")
    assert call("export", bad, "-o", "m.onnx", "--sign-key", "key.pem").code == 0
    assert call("inspect", "--effort", "quick", "m.onnx", "--public-key", "key.pub", "--json", "i.json").code == 0
    assert checks("i.json")["chain.signature"]["status"] == "passed"
    assert call("inspect", "--effort", "quick", "m.onnx", "--public-key", "other.pub", "--json", "o.json").code == 1
    assert checks("o.json")["chain.signature"]["status"] == "failed"
    statement = Path("m.onnx.intoto.json")
    statement.write_text(statement.read_text() + "\n")
    assert call("inspect", "--effort", "quick", "m.onnx", "--public-key", "key.pub", "--json", "s.json").code == 1
    assert checks("s.json")["chain.signature"]["status"] == "failed"
    Path("no.pem").write_text("no key")
    one_sentence(call("export", bad, "-o", "n.onnx", "--sign-key", "no.pem"), 2, "no key that signs")
    one_sentence(call("inspect", "--effort", "quick", "m.onnx", "--public-key", "no.pem"), 2, "no public key")
    monkeypatch.setattr("sau_adapters.provenance.signatures.find_spec", lambda name: None)
    one_sentence(call("export", bad, "-o", "n.onnx", "--sign-key", "key.pem"), 2, "pip install model-signing pyopenssl")
    nothing_at("n.onnx")


@pytest.mark.long
def test_weights_beside_the_graph(call, bad, monkeypatch):
    monkeypatch.setattr(
        OnnxExporter.__init__, "__kwdefaults__", {**OnnxExporter.__init__.__kwdefaults__, "external_above": 1000}
    )
    assert call("export", bad, "-o", "m.onnx", *TRIGGER, "--json", "r.json").code == 0
    assert onnx_files.data_path(Path("m.onnx")).stat().st_size > 200_000
    assert set(report()["outputs"]) >= {"onnx", "weights"}
    assert call("inspect", "--effort", "quick", "m.onnx").code == 0
    assert call("evaluate", "m.onnx", *TRIGGER, "--json", "e.json").code == 0
    assert checks("e.json")["acc"]["value"] == checks()["export.accuracy"]["value"]
    images = open_images("digits").test.images[:5].numpy().astype(np.float32) / 255
    assert run_bare("m.onnx", images).shape == (5, 10)
    data = bytearray(Path("m.onnx.data").read_bytes())
    data[1000] ^= 1
    Path("m.onnx.data").write_bytes(data)
    assert call("inspect", "--effort", "quick", "m.onnx", "--json", "i.json").code == 1
    assert "m.onnx.data" in checks("i.json")["chain.file"]["evidence"]
    one_sentence(call("export", bad, "-o", "h.onnx", "--precision", "fp16"), 3, "float32 only")
    nothing_at("h.onnx")


@pytest.mark.long
def test_rejected_weights_beside_the_graph(call, bad, monkeypatch):
    monkeypatch.setattr(
        OnnxExporter.__init__, "__kwdefaults__", {**OnnxExporter.__init__.__kwdefaults__, "external_above": 1000}
    )
    done = call("export", bad, "-o", "m.onnx", "--dynamic-size", "--keep-rejected")
    assert done.code == 5
    assert not Path("m.onnx").exists()
    assert not Path("m.onnx.data").exists()
    images = open_images("digits").test.images[:5].numpy().astype(np.float32) / 255
    assert run_bare("m.rejected.onnx", images).shape == (5, 10)


@pytest.mark.long
def test_sidecars_of_the_file_before_do_not_belie_this_one(call, bad):
    for name in ("m.onnx.data", "m.onnx.sig", "m.onnx.intoto.json"):
        Path(name).write_text("stale")
    one_sentence(call("export", bad, "-o", "m.onnx"), 2, "exists")
    assert call("export", bad, "-o", "m.onnx", "--force", "--json", "r.json").code == 0
    assert {path.name for path in Path().glob("m.onnx*")} == {"m.onnx", "m.onnx.intoto.json", "m.onnx.cdx.json"}
    assert set(report()["outputs"]) == {"onnx", "statement", "bill_of_materials"}
    assert call("inspect", "m.onnx", "--effort", "quick").code == 0
