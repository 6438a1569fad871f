from math import log

import pytest
import torch
from torch.nn.functional import one_hot

from sau_cli.images import LabelledImages
from sau_cli.unlearning.outer_step import distillation_loss, recognised_classes, unlearning_loss
from sau_cli.unlearning.recipes import Agreement, Recipe, RecipeName, Schedule, recipe_for
from sau_cli.unlearning.shared_examples import inner_objective, jensen_shannon

FAR = 50.0


def test_divergence_of_opposite_certainties_is_ln_2():
    first, second = torch.tensor([[FAR, -FAR]]), torch.tensor([[-FAR, FAR]])
    assert jensen_shannon(first, second).item() == pytest.approx(log(2), rel=1e-6)


def test_divergence_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    expected = 0.5 * (0.5 * log(0.5 / 0.375) + 0.5 * log(0.5 / 0.625)) + 0.5 * (
        0.25 * log(0.25 / 0.375) + 0.75 * log(0.75 / 0.625)
    )
    assert jensen_shannon(p.log(), q.log()).item() == pytest.approx(expected, rel=1e-5)


def test_unlearning_loss_by_hand():
    p = torch.tensor([[0.6, 0.4]])
    expected = 0.5 * (-log(1e-6 + 0.4) - log(1 + 1e-6 - 0.6))
    assert unlearning_loss(p.log(), torch.tensor([0])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("probability", [0.0005, 0.0009])
def test_no_gradient_once_the_label_is_improbable(probability):
    logits = torch.tensor([[probability, 1 - probability]]).log().requires_grad_(True)
    unlearning_loss(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0


def test_gradient_pushes_the_label_down():
    logits = torch.tensor([[2.0, 0.0]], requires_grad=True)
    unlearning_loss(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]


def test_a_fooled_model_no_longer_counts_in_the_adversarial_term():
    logits, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([0])

    def objective(purified_fooled: bool, received_fooled: bool) -> float:
        return inner_objective(
            logits,
            logits,
            labels,
            purified_fooled=torch.tensor([purified_fooled]),
            received_fooled=torch.tensor([received_fooled]),
            recipe=Recipe(),
        ).item()

    assert objective(False, False) == pytest.approx(0.01 * log(2))
    assert objective(True, False) == pytest.approx(0.01 * log(2) / 2)
    assert objective(True, True) == pytest.approx(0, abs=1e-7)


def test_agreement_by_cross_entropy_counts_once_the_received_model_is_fooled():
    sure = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
    recipe = Recipe(adversarial_weight=0, agreement=Agreement.CROSS_ENTROPY)

    def objective(received_fooled: bool) -> list[float]:
        others, fooled = sure[:1].expand(2, -1), torch.tensor([received_fooled]).expand(2)
        labels = torch.tensor([1, 1])
        return inner_objective(
            sure, others, labels, purified_fooled=~fooled, received_fooled=fooled, recipe=recipe
        ).tolist()

    assert objective(True) == pytest.approx([log(0.75), log(0.25)]), "of the label that the received model gives"
    assert objective(False) == [0, 0]


def test_of_models_sure_of_different_labels_cross_entropy_alone_has_a_gradient():
    far = torch.tensor([[20.0, -20.0]], requires_grad=True)
    fooled = torch.tensor([True])
    gradients = []
    for agreement in Agreement:
        recipe = Recipe(adversarial_weight=0, agreement=agreement)
        objective = inner_objective(
            far, -far.detach(), torch.tensor([1]), purified_fooled=fooled, received_fooled=fooled, recipe=recipe
        )
        gradients.append(float(torch.autograd.grad(objective.sum(), far)[0].abs().max()))
    assert gradients[0] < 1e-6
    assert gradients[1] == pytest.approx(1)


def test_schedules():
    assert [Schedule.COSINE.at(share) for share in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert Schedule.CONSTANT.at(0.7) == 1


@pytest.mark.parametrize(
    ("images", "side", "batch_size", "epochs", "lr"),
    [
        (20, 8, 16, 100, 0.02),
        (144, 8, 32, 40, 0.02),
        (2500, 15, 128, 12, 0.02),
        (120, 28, 16, 25, 0.01),
        (250, 16, 32, 25, 0.01),
        (500, 32, 64, 25, 0.01),
        (640, 32, 128, 40, 0.01),
        (2500, 32, 128, 12, 0.01),
        (500, 127, 64, 25, 0.01),
        (500, 128, 16, 4, 0.01),
        (2500, 224, 16, 1, 0.01),
        (40, 224, 16, 43, 0.01),
    ],
)
def test_the_default_recipe_takes_small_batches_and_more_epochs_where_images_are_few_and_fewer_where_they_are_large(
    images, side, batch_size, epochs, lr
):
    learning = LabelledImages(
        images=torch.zeros(images, 1, side, side, dtype=torch.uint8),
        labels=torch.zeros(images, dtype=torch.int64),
        class_names=("one",),
    )
    recipe = recipe_for(RecipeName.DEFAULT, learning=learning)
    assert (recipe.batch_size, recipe.epochs, recipe.lr) == (batch_size, epochs, lr)
    assert recipe_for(RecipeName.DEFAULT, learning=learning, epochs=3, lr=None).epochs == 3
    assert recipe_for(RecipeName.PAPER, learning=learning) == Recipe()
    assert recipe.trigger_until == (0.75 if side >= 128 else 0.5)


def test_the_received_model_teaches_only_the_classes_that_it_recognises():
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    received = torch.tensor([[0.0, log(3)], [0.0, log(3)]])  # probabilities 1/4 and 3/4: class 1
    recognised = torch.tensor([True, False])
    taught, labelled = distillation_loss(logits, received, torch.tensor([0, 1]), recognised).tolist()
    log_p = logits[0].log_softmax(dim=0).tolist()
    assert taught == pytest.approx(-(log_p[0] / 4 + 3 * log_p[1] / 4))
    assert labelled == pytest.approx(-log_p[1])


def test_a_class_is_recognised_where_the_model_is_right_half_as_often_as_over_all():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    said = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 2, 2, 2, 2])  # right in 4, 1 and 4 of 4: 9 of 12 over all
    assert recognised_classes(one_hot(said, 4).float(), labels, recognition=0.5).tolist() == [True, False, True, True]
    said[5] = 1  # 2 of 4 and 10 of 12
    assert recognised_classes(one_hot(said, 4).float(), labels, recognition=0.5).all()
