"""Projections, stamps, shares and measures, whatever the numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sau_cli.evaluation.metrics import defence_effectiveness, rate
from sau_cli.images import balanced_share
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.search_space import ball
from sau_cli.unlearning.shared_examples import find_shared_examples, jensen_shannon
from tests.support.attacks import badnets_trigger, blended_trigger
from tests.support.toys import BrightnessNet, describe, random_images

quick = settings(max_examples=60, deadline=None)
logits = st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3)


@quick
@given(logits, logits)
def test_the_divergence_is_symmetric_and_bounded(first, second):
    p, q = torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64)
    value = jensen_shannon(p, q).item()
    assert -1e-12 <= value <= 0.6931471806
    assert value == pytest.approx(jensen_shannon(q, p).item(), abs=1e-12)
    assert jensen_shannon(p, p).item() == pytest.approx(0, abs=1e-12)


@quick
@given(seed=st.integers(0, 1000), epsilon=st.floats(0.01, 1), step=st.floats(0.001, 1), steps=st.integers(1, 6))
def test_perturbations_stay_in_the_ball(seed, epsilon, step, steps):
    data = random_images(6, seed=seed)
    classifier, other = describe(BrightnessNet(10)), describe(BrightnessNet(10))
    with torch.no_grad():
        other.network.centres += 0.7
    pixels = data.images.float() / 255
    with torch.no_grad():
        own, others = classifier(pixels).argmax(1), other(pixels).argmax(1)
    found = find_shared_examples(
        classifier,
        other,
        pixels,
        data.labels,
        purified_labels=own,
        received_labels=others,
        space=ball(pixels, epsilon=epsilon, step=step, clip=False),
        recipe=Recipe(steps=steps),
    )
    assert found.delta.abs().max() <= epsilon * (1 + 1e-6)
    with torch.no_grad():
        assert torch.equal(found.received_labels, other(pixels + found.delta).argmax(1))


@quick
@given(seed=st.integers(0, 1000), size=st.integers(1, 8), alpha=st.floats(0.01, 1))
def test_stamping_a_patch_twice_is_stamping_it_once(seed, size, alpha):
    images = random_images(3, seed=seed).images
    patch = badnets_trigger(trigger_size=size)
    assert torch.equal(patch.stamp(patch.stamp(images)), patch.stamp(images))
    blend = blended_trigger(alpha=alpha)
    moved = (blend.stamp(images).int() - images.int()).abs().max()
    assert moved <= 255 * alpha + 0.5


@quick
@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_intervals_hold_their_rate(counts):
    measure = rate(*counts)
    low, high = measure.ci95
    assert 0 <= low <= measure.value <= high <= 1 + 1e-12


rates = st.floats(0, 1)


@quick
@given(rates, rates, rates, rates)
def test_defence_effectiveness_lies_in_0_to_1(a, b, c, d):
    assert 0 <= defence_effectiveness(a, b, c, d) <= 1
    assert defence_effectiveness(a, a, c, c) == 0.5


@quick
@given(count=st.integers(20, 200), classes=st.integers(2, 10), share=st.floats(0.1, 1))
def test_balanced_shares_differ_by_at_most_one_image_where_classes_are_even(count, classes, share):
    data = random_images(count - count % classes, classes=classes)
    chosen = balanced_share(data, share, seed=0)
    counts = data.labels[chosen].bincount(minlength=classes)
    assert len(chosen) == round(share * len(data)) == len(set(chosen.tolist()))
    assert int(counts.max() - counts.min()) <= 1
