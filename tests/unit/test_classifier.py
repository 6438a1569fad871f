import pytest
import torch
from torch import nn

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.description import Description, InputSpec
from sau_cli.errors import ExitCode, NotEvaluable, SauError, UsageError
from sau_cli.model_state import evaluating, frozen
from sau_cli.predictions import predicted_labels
from sau_cli.seeding import random_stream, seeded
from tests.support.toys import BrightnessNet, describe, flat_images, names


def test_the_classifier_carries_its_normalisation():
    spec = InputSpec(channels=2, height=1, width=1, mean=(0.5, 0.25), std=(0.5, 0.25))
    classifier = Classifier(nn.Flatten(), Description(architecture="x", class_names=names(2), input=spec))
    assert classifier(torch.tensor([[[[1.0]], [[0.5]]]])).tolist() == [[1.0, 1.0]]
    assert list(classifier.state_dict()) == []


def test_brightness_is_classified_without_error():
    data = flat_images()
    assert torch.equal(predicted_labels(describe(BrightnessNet(10)), data.images), data.labels)


def test_weights_that_are_not_finite_are_named():
    classifier = describe(BrightnessNet(10))
    with torch.no_grad():
        classifier.network.centres[3] = float("nan")
    with pytest.raises(NotEvaluable, match="centres"):
        check_finite_weights(classifier)
    with pytest.raises(NotEvaluable, match="NaN or infinite logits"):
        predicted_labels(classifier, flat_images().images)


@pytest.mark.parametrize("network", [nn.Flatten(), nn.Identity()])
def test_a_network_that_returns_no_logits_is_refused(network):
    with pytest.raises(NotEvaluable, match="where logits of shape"):
        predicted_labels(describe(network), flat_images().images)


@pytest.mark.parametrize("broken", [{"height": 0}, {"mean": (0.1, 0.2)}, {"std": (0.0,)}, {"std": (float("nan"),)}])
def test_an_impossible_input_is_refused(broken):
    with pytest.raises(UsageError):
        InputSpec(**{"channels": 1, "height": 8, "width": 8, "mean": (0.0,), "std": (1.0,), **broken})


def test_contexts_restore_the_module_exactly():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    module.train()
    module[2].eval()
    module[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="inside"), evaluating(module), frozen(module):
        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())
        raise ValueError("inside")
    assert [part.training for part in module.modules()] == [True, True, True, False]
    assert [parameter.requires_grad for parameter in module.parameters()] == [False, True, True, True]


def test_streams_of_different_purposes_differ_and_repeat():
    first = torch.rand(4, generator=random_stream(0, "a"))
    assert torch.equal(first, torch.rand(4, generator=random_stream(0, "a")))
    assert not torch.equal(first, torch.rand(4, generator=random_stream(0, "b")))
    assert not torch.equal(first, torch.rand(4, generator=random_stream(1, "a")))


def test_seeding_leaves_the_global_generator_as_it_was():
    before = torch.random.get_rng_state()
    with seeded(0, "weights"):
        torch.rand(3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_kind_of_error_has_its_own_exit_code():
    def leaves(kind: type[SauError]) -> list[type[SauError]]:
        below = kind.__subclasses__()
        return [kind] if not below else [leaf for inner in below for leaf in leaves(inner)]

    codes = [leaf.exit_code for leaf in leaves(SauError)]
    assert len(codes) == len(set(codes)) == 6
    assert ExitCode.PASSED not in codes
