"""Folders that Hugging Face transformers writes: opened as it opens them, or refused in one sentence."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from sau_adapters.architectures import transformers_networks
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.metadata import from_metadata, to_metadata
from sau_adapters.classifiers.saving import save_like, written_result
from sau_adapters.files import check_folder_writable, folder_written_whole
from sau_adapters.silence import silenced
from sau_cli.errors import NotEvaluable, UsageError
from tests.support.models import file_facts, read_checkpoint
from tests.support.transformers_models import (
    FAMILIES,
    NAMES,
    PIXELS,
    answers,
    network,
    pictures,
    prepared,
    processor,
    rewritten,
    saved,
)

transformers = pytest.importorskip("transformers")
CLOSE = 1e-5


@pytest.fixture
def vit(tmp_path):
    return saved(tmp_path / "vit", "vit")


def said(folder):
    with torch.no_grad():
        return as_classifier(read_checkpoint(folder))(pictures() / 255)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_answers_as_in_transformers(tmp_path, family):
    folder = saved(tmp_path / family, family)
    expected = answers(folder, pictures())
    assert expected.std(0).max() > 1e-3, "the answers tell images apart"
    assert (said(folder) - expected).abs().max() < CLOSE * max(1, expected.abs().max())
    known = file_facts(folder).description
    assert known.architecture == f"transformers:{FAMILIES[family][0]}ForImageClassification"
    assert (known.class_names, known.input.size) == (NAMES, f"{PIXELS}x{PIXELS}")


@pytest.mark.parametrize("family", ["deit", "levit"])
def test_a_head_with_a_teacher_is_a_classifier(tmp_path, family):
    with silenced():
        network(family, ending="ForImageClassificationWithTeacher").save_pretrained(tmp_path)
        processor(family).save_pretrained(tmp_path)
    made = getattr(transformers, f"{FAMILIES[family][0]}ForImageClassificationWithTeacher")
    with silenced(), torch.no_grad():
        expected = made.from_pretrained(tmp_path).eval()(prepared(processor(family), pictures())).logits
    assert (said(tmp_path) - expected).abs().max() < CLOSE * max(1, expected.abs().max())


def test_shards_pickles_and_half_precision_hold_the_same_network(tmp_path, vit):
    expected = said(vit)
    shards = saved(tmp_path / "shards", "vit", max_shard_size="40KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    assert torch.equal(said(shards), expected)
    pickled = saved(tmp_path / "pickled", "vit")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert torch.equal(said(pickled), expected)
    half = saved(tmp_path / "half", "vit", form=lambda made: made.half())
    assert torch.allclose(said(half), expected, atol=0.02)
    assert not torch.equal(said(half), expected)


def test_weights_under_the_names_of_older_versions_find_their_place(tmp_path, vit):
    """The layers' names in files of transformers 4, where those of the network in memory are others."""
    in_file = load_file(vit / "model.safetensors").keys()
    in_memory = as_classifier(read_checkpoint(vit)).network.state_dict().keys()
    assert "vit.encoder.layer.0.attention.attention.query.weight" in in_file
    assert (in_file == in_memory) is (int(transformers.__version__.split(".")[0]) < 5)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({str(at): NAMES[at] for at in (3, 1, 9, 0, 7, 2, 8, 6, 5, 4)}, NAMES),
        ({str(at): f"LABEL_{at}" for at in range(10)}, tuple(map(str, range(10)))),
        ({str(at + 1): name for at, name in enumerate(NAMES)}, tuple(map(str, range(10)))),
        ({str(at): "crane" if at in {2, 5} else name for at, name in enumerate(NAMES)}, ("crane (2)", "crane (5)")),
    ],
)
def test_names_of_classes(vit, labels, names):
    told = file_facts(rewritten(vit, "config.json", id2label=labels)).description.class_names
    assert told == names if len(names) == 10 else (told[2], told[5]) == names


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"size": 40}, "40x40"),
        ({"size": {"height": 40, "width": 48}}, "40x48"),
        ({"size": [40, 48]}, "40x48"),
        ({"size": {"shortest_edge": 40}, "crop_pct": 0.875}, "40x40"),
        ({"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": 40}, "40x40"),
        ({"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": {"height": 40, "width": 44}}, "40x44"),
        ({"size": {"shortest_edge": 48}, "do_center_crop": False, "crop_size": {"height": 40, "width": 40}}, "48x48"),
        ({"do_resize": False}, "32x32"),
    ],
)
def test_forms_of_a_size(vit, changes, size):
    assert file_facts(rewritten(vit, "preprocessor_config.json", **changes)).description.input.size == size


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("vit", {"do_normalize": False}),
        ("vit", {"do_rescale": False}),
        ("vit", {"rescale_factor": 1 / 127.5}),
        ("vit", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
        ("efficientnet", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("efficientnet", {"include_top": False}),
        ("efficientnet", {"do_normalize": False}),
        ("mobilevit", {"do_flip_channel_order": False}),
    ],
)
def test_what_is_done_to_pixels(tmp_path, family, settings):
    saved(tmp_path, family)
    processor(family, **settings).save_pretrained(tmp_path)
    expected = answers(tmp_path, pictures())
    assert (said(tmp_path) - expected).abs().max() < CLOSE * max(1, expected.abs().max())


def test_without_a_preprocessor_the_normalisation_is_asked_for(vit):
    expected = said(vit)
    (vit / "preprocessor_config.json").unlink()
    facts = file_facts(vit)
    assert facts.description is None
    assert "transformers:ViTForImageClassification, 10 classes (seven, " in facts.notes[0]
    with pytest.raises(NotEvaluable, match="add normalisation"):
        as_classifier(read_checkpoint(vit))
    given = as_classifier(read_checkpoint(vit), normalisation=((0.5,), (0.5,)))
    assert given.description.class_names == NAMES
    with torch.no_grad():
        assert torch.equal(given(pictures() / 255), expected)


def test_the_family_tells_where_no_class_is_named(vit):
    expected = said(vit)
    assert torch.equal(said(rewritten(vit, "config.json", architectures=None)), expected)


@pytest.mark.parametrize("name", ["ViTModel", "ViTForMaskedImageModeling", "SegformerForSemanticSegmentation"])
def test_another_task_is_told(tmp_path, name):
    family = "segformer" if name.startswith("Segformer") else "vit"
    with silenced():
        network(family, ending=name.removeprefix(FAMILIES[family][0])).save_pretrained(tmp_path)
    with pytest.raises(NotEvaluable, match=f"{name}, which is no image classifier"):
        read_checkpoint(tmp_path)
    with pytest.raises(NotEvaluable, match="no image classifier"):
        file_facts(tmp_path)


def test_code_of_a_model_is_never_run(vit):
    (vit / "mine.py").write_text("import pathlib; pathlib.Path(__file__).with_name('was-run').touch()")
    own = {"AutoConfig": "mine.Config", "AutoModelForImageClassification": "mine.Network"}
    expected = said(vit)
    checkpoint = read_checkpoint(rewritten(vit, "config.json", auto_map=own))
    assert checkpoint.notes == ("config.json names code that comes with the model (auto_map), which is never run",)
    assert torch.equal(said(vit), expected), "the class of transformers is used"
    rewritten(vit, "config.json", architectures=["MineForImageClassification"])
    with pytest.raises(NotEvaluable, match="MineForImageClassification, which transformers .* does not have"):
        as_classifier(read_checkpoint(vit))
    rewritten(vit, "config.json", architectures=["Mine"])
    with pytest.raises(NotEvaluable, match="never run"):
        read_checkpoint(vit)
    assert not (vit / "was-run").exists()


def test_settings_that_choose_code_are_left_out(vit):
    expected = said(vit)
    rewritten(vit, "config.json", _attn_implementation="kernels-community/any", attn_implementation="any/kernel")
    rewritten(vit, "config.json", quantization_config={"quant_method": "bitsandbytes"}, dtype="float16")
    assert torch.equal(said(vit), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers"),
        ({"num_hidden_layers": 3}, "tensors are missing"),
        ({"num_hidden_layers": 1}, "have no place"),
        ({"intermediate_size": 60}, "another shape"),
        ({"hidden_size": 10**7}, "as its configuration describes it has"),
        ({"hidden_act": "none such"}, "cannot build"),
        ({"hidden_size": "many"}, "cannot build"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": None}, "another shape"),
        ({"id2label": {"zero": "a"}}, "damaged"),
        ({"id2label": 7}, "damaged"),
        ({"num_channels": -1}, "damaged"),
    ],
)
def test_a_configuration_that_is_not_the_weights(vit, changes, words):
    rewritten(vit, "config.json", **changes)
    with pytest.raises(NotEvaluable, match=words):
        as_classifier(read_checkpoint(vit))


@pytest.mark.parametrize(
    "changes",
    [{"image_std": [0.5, 0.0, 0.5]}, {"image_mean": [0.5, 0.5]}, {"rescale_factor": "x"}, {"size": {"height": -1}}],
)
def test_a_preprocessor_that_cannot_be(vit, changes):
    (vit / "config.json").write_text((vit / "config.json").read_text().replace('"image_size": 32,', ""))
    rewritten(vit, "preprocessor_config.json", **changes)
    with pytest.raises(NotEvaluable):
        as_classifier(read_checkpoint(vit))


def test_images_through_clusters_are_no_pixels(vit):
    rewritten(vit, "config.json", architectures=["ImageGPTForImageClassification"], model_type="imagegpt")
    with pytest.raises(NotEvaluable, match="colours counted in clusters"):
        read_checkpoint(vit)


def test_without_the_extra_the_file_is_told_and_the_command_to_install(vit, monkeypatch):
    monkeypatch.setattr(transformers_networks, "find_spec", lambda name: None)
    assert file_facts(vit).description.architecture == "transformers:ViTForImageClassification"
    with pytest.raises(NotEvaluable, match=r"pip install 'sau-cli\[transformers\]'"):
        as_classifier(read_checkpoint(vit))


def test_a_network_of_timm_that_transformers_wrapped_needs_no_extra(tmp_path, monkeypatch):
    shown = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3}
    told = {"architecture": "resnet10t", "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": shown}
    with silenced():
        made = transformers.TimmWrapperForImageClassification(transformers.TimmWrapperConfig.from_dict(told)).eval()
        made.save_pretrained(tmp_path)
    monkeypatch.setattr(transformers_networks, "find_spec", lambda name: None)
    classifier = as_classifier(read_checkpoint(tmp_path))
    assert (classifier.description.architecture, classifier.description.class_names) == ("timm:resnet10t", tuple("abc"))
    with torch.no_grad():
        assert torch.allclose(classifier(pictures() / 255), made((pictures() / 255 - 0.5) / 0.2).logits, atol=CLOSE)


@pytest.mark.parametrize("family", ["beit", "mobilevit", "resnet", "swin", "vit"])
@pytest.mark.parametrize("folder", [True, False])
def test_what_is_written_is_loaded_by_both(tmp_path, family, folder):
    """Also from a single file, moved away from its configuration."""
    checkpoint = read_checkpoint(saved(tmp_path / "received", family))
    classifier = as_classifier(checkpoint)
    with torch.no_grad():
        for weights in classifier.network.parameters():
            weights.mul_(1.01)
        expected = classifier(pictures() / 255)
    out = tmp_path / "away" / ("written" if folder else "written.safetensors")
    out.parent.mkdir()
    with written_result(out, folder=folder) as part:
        save_like(checkpoint, part, classifier, classifier.description, proof=None)
    again = read_checkpoint(out)
    assert again.description == classifier.description
    assert again.state.keys() == checkpoint.state.keys(), "the names are those of the received file"
    assert torch.equal(said(out), expected)
    if folder:
        assert sorted(file.name for file in out.iterdir()) == [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ]
        assert torch.allclose(answers(out, pictures()), expected, atol=CLOSE * max(1, expected.abs().max()))
        with silenced():
            _, info = transformers.AutoModelForImageClassification.from_pretrained(out, output_loading_info=True)
        assert not any(info.values())


def test_number_formats_are_kept(tmp_path):
    checkpoint = read_checkpoint(saved(tmp_path / "half", "resnet", form=lambda made: made.half()))
    classifier = as_classifier(checkpoint)
    with written_result(tmp_path / "written", folder=True) as part:
        save_like(checkpoint, part, classifier, classifier.description, proof=None)
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "written" / "model.safetensors").items()}
    assert dtypes == {name: tensor.dtype for name, tensor in checkpoint.state.items()}
    assert torch.float16 in dtypes.values()


def test_the_configuration_comes_back_from_metadata(vit):
    known = file_facts(vit).description
    assert known.config["hidden_size"] == 32
    assert "id2label" not in known.config
    assert from_metadata(to_metadata(known)) == known
    deep = to_metadata(known) | {"sau.config": json.dumps({"a": json.loads("[" * 30 + "]" * 30)})}
    for damaged in (deep, to_metadata(known) | {"sau.config": "[]"}):
        with pytest.raises(NotEvaluable, match=r"sau\.config"):
            from_metadata(damaged)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    out, files = tmp_path / "out", ("a", "b")
    with pytest.raises(ZeroDivisionError), folder_written_whole(out, files=files) as part:
        (part / "a").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with folder_written_whole(out, files=files) as part:
            (part / "a").write_text(text)
        assert [file.name for file in tmp_path.iterdir()] == ["out"]
        assert (out / "a").read_text() == text
    with pytest.raises(UsageError, match="exists"):
        check_folder_writable(out, force=False, files=files)
    check_folder_writable(out, force=True, files=files)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"), folder_written_whole(out, files=files) as part:
        pytest.fail("nothing of others is replaced")
    assert (out / "thesis.txt").read_text() == "mine"
