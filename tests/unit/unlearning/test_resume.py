"""A run that is stopped and gone on with ends as if it had not been stopped, bit for bit."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.run_states import read_state, write_state
from sau_cli.augmentation import Augmentation
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.images import CleanData
from sau_cli.inversion.search import Heat, SearchSettings
from sau_cli.team import Team
from sau_cli.unlearning import inverted_triggers, recipes, shared_unlearning
from sau_cli.unlearning.compared_methods import FineTuning
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import DEFAULT, Optimiser, Recipe, Schedule
from sau_cli.unlearning.shared_unlearning import SharedUnlearning
from tests.support.toys import describe, random_images

pytestmark = pytest.mark.long  # whole runs, stopped at each place and gone on with

DATA = random_images(40)
CLEAN = CleanData(learning=DATA, held_back=DATA.take(range(10)), augmentation=Augmentation(padding=1, flip=True))
PAPER = Recipe(epochs=3, batch_size=16, lr=1e-3)
VARIED = replace(
    PAPER,
    optimiser=Optimiser.SGD,
    schedule=Schedule.COSINE,
    augment=True,
    clip=True,
    clean_statistics=True,
    averaging=0.8,
)


def received():
    torch.manual_seed(0)
    return describe(CIFAR_NETWORKS["small_cnn"](10, 1))


def weights(result):
    return result.classifier.network.state_dict()


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


class StopAfter:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left == 0


@cache
def whole_run(recipe):
    return purify(received(), CLEAN, recipe=recipe, seed=1)


IN_BETWEEN = [2, 5, 6]
"""Steps of which fast tests stop at the like: 1 and 8 in an epoch, 3 at the end of one."""


@pytest.mark.parametrize("recipe", [PAPER, VARIED], ids=["paper", "varied"])
@pytest.mark.parametrize("steps", [1, 3, 8, *(pytest.param(steps, marks=pytest.mark.slow) for steps in IN_BETWEEN)])
def test_stopped_anywhere_and_gone_on_with_through_a_file(tmp_path, recipe, steps):
    whole = whole_run(recipe)
    path = tmp_path / "state.safetensors"

    def save(state):
        write_state(path, state)

    first = purify(received(), CLEAN, recipe=recipe, seed=1, save=save, stop=StopAfter(steps))
    assert not first.finished
    assert not same(weights(first), weights(whole))
    assert same(weights(first), read_state(path).learned())
    second = purify(received(), CLEAN, recipe=recipe, seed=1, save=save, resume=read_state(path))
    assert second.finished
    assert same(weights(second), weights(whole))
    for ours, expected in zip(second.epochs, whole.epochs, strict=True):
        assert replace(ours, seconds=0) == replace(expected, seconds=0)


@pytest.mark.usefixtures("two_threads")
def test_stopped_and_gone_on_with_on_two_cores():
    """With both networks of the search at once."""
    kept, recipe = [], replace(PAPER, epochs=2)
    whole = purify(received(), CLEAN, recipe=recipe, seed=1)
    purify(received(), CLEAN, recipe=recipe, seed=1, save=kept.append, stop=StopAfter(4))
    assert same(weights(purify(received(), CLEAN, recipe=recipe, seed=1, resume=kept[-1])), weights(whole))


def test_killed_between_saves_it_goes_on_from_the_last_epoch(tmp_path):
    whole = whole_run(PAPER)
    states = []
    with pytest.raises(ZeroDivisionError):
        purify(received(), CLEAN, recipe=PAPER, seed=1, save=states.append, stop=lambda: 1 / (2 - len(states)) < 0)
    second = purify(received(), CLEAN, recipe=PAPER, seed=1, resume=states[-1])
    assert same(weights(second), weights(whole))


def test_another_run_is_not_gone_on_with(monkeypatch):
    states = []
    purify(received(), CLEAN, recipe=PAPER, seed=1, save=states.append)
    with pytest.raises(UsageError, match="another model"):
        purify(received(), CLEAN, recipe=replace(PAPER, lr=2e-3), seed=1, resume=states[0])
    with pytest.raises(UsageError, match="another model"):
        purify(received(), CLEAN, recipe=PAPER, seed=2, resume=states[0])
    monkeypatch.setattr(recipes, "REVISION", recipes.REVISION + 1)
    with pytest.raises(UsageError, match="other settings"):
        purify(received(), CLEAN, recipe=PAPER, seed=1, resume=states[0])
    monkeypatch.undo()
    other = replace(CLEAN, learning=DATA.take(range(39)))
    with pytest.raises(UsageError, match="another model"):
        purify(received(), other, recipe=PAPER, seed=1, resume=states[0])


@pytest.mark.parametrize("failures", [1, 3, 4])
def test_a_loss_that_is_not_finite_goes_back_at_half_the_rate(monkeypatch, failures):
    real, calls = shared_unlearning.accumulate_gradients, []

    def sometimes_broken(*arguments, **options):
        tally = real(*arguments, **options)
        calls.append(1)
        if len(calls) > 4 and len(calls) <= 4 + failures:
            tally.clean_loss = float("nan")
        return tally

    monkeypatch.setattr(shared_unlearning, "accumulate_gradients", sometimes_broken)
    if failures > 3:
        with pytest.raises(NotEvaluable, match="lower lr"):
            purify(received(), CLEAN, recipe=PAPER, seed=1)
        return
    result = purify(received(), CLEAN, recipe=PAPER, seed=1)
    assert result.rate == 0.5**failures
    assert [epoch.number for epoch in result.epochs] == [1, 2, 3]
    assert all(torch.isfinite(tensor).all() for tensor in weights(result).values())


def test_parts_of_a_batch_give_the_same_weights():
    whole = whole_run(PAPER)
    parts = purify(received(), CLEAN, recipe=PAPER, seed=1, max_batch=5)
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor.double(), weights(parts)[name].double(), atol=3e-3), name
    for ours, expected in zip(parts.epochs, whole.epochs, strict=True):
        assert ours.clean_loss == pytest.approx(expected.clean_loss, rel=1e-3)
        assert ours.images == expected.images


def test_memory_that_does_not_suffice_halves_the_parts(monkeypatch):
    real, sizes = shared_unlearning.accumulate_gradients, []

    def small_memory(purified, received_, images, *arguments, **options):
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("the device is full")
        return real(purified, received_, images, *arguments, **options)

    monkeypatch.setattr(shared_unlearning, "accumulate_gradients", small_memory)
    result = purify(received(), CLEAN, recipe=replace(PAPER, epochs=1), seed=1)
    assert sizes[:3] == [16, 8, 4]
    assert result.epochs[0].images == 40


def test_an_impossible_part_is_refused():
    with pytest.raises(UsageError):
        purify(received(), CLEAN, recipe=PAPER, seed=1, max_batch=0)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_files_that_are_no_state(tmp_path, content):
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(NotEvaluable):
        read_state(path)


def short_of_memory(monkeypatch, fits):
    """Parts above so many images do not fit, as torch says it on a CPU. Returns the sizes that were tried."""
    real, tried = shared_unlearning.accumulate_gradients, []

    def step(purified, received, images, *arguments, **options):
        tried.append(len(images))
        if len(images) > fits:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return real(purified, received, images, *arguments, **options)

    monkeypatch.setattr(shared_unlearning, "accumulate_gradients", step)
    return tried


def test_groups_give_way_where_not_even_one_of_them_fits(monkeypatch):
    tried = short_of_memory(monkeypatch, 5)
    result = purify(received(), CLEAN, recipe=replace(VARIED, epochs=1), seed=1)
    assert result.finished
    assert tried[:2] == [16, 8]
    assert all(size <= 5 for size in tried[3:])
    assert sum(size for size in tried if size <= 5) == 40


def test_other_processes_share_out_by_groups_so_that_these_stay(monkeypatch):
    short_of_memory(monkeypatch, 5)
    monkeypatch.setattr(Team, "differ", lambda *_: False)
    with pytest.raises(RuntimeError, match="allocate memory"):
        purify(received(), CLEAN, recipe=replace(VARIED, epochs=1), seed=1, team=Team(0, 2))


@pytest.mark.parametrize(
    ("recipe", "other"), [(FineTuning(epochs=3, batch_size=16, augment=False), 4), (VARIED, 8), (PAPER, None)]
)
def test_other_parts_are_another_run_only_where_they_change_the_result(recipe, other):
    kept = []
    purify(received(), CLEAN, recipe=recipe, seed=1, save=kept.append, stop=StopAfter(1), max_batch=16)
    if other is None:
        assert purify(received(), CLEAN, recipe=recipe, seed=1, resume=kept[-1], max_batch=4).finished
        return
    with pytest.raises(UsageError, match="other settings"):
        purify(received(), CLEAN, recipe=recipe, seed=1, resume=kept[-1], max_batch=other)


def test_a_step_that_blew_the_weights_up_is_not_what_is_kept(monkeypatch):
    """Stopped just there, the state is that of the epoch's beginning, at half the rate."""
    real = SharedUnlearning.take

    def blown_up(self, batch):
        tally = real(self, batch)
        with torch.no_grad():
            next(self.purified.parameters()).fill_(float("inf"))
        return tally

    monkeypatch.setattr(SharedUnlearning, "take", blown_up)
    kept = []
    result = purify(received(), CLEAN, recipe=PAPER, seed=1, save=kept.append, stop=StopAfter(1))
    assert (result.finished, result.rate, len(kept)) == (False, 0.5, 1)
    assert (kept[0].rate, kept[0].batch) == (0.5, 0)
    assert same(kept[0].weights, received().network.state_dict())


@pytest.mark.long
def test_stopped_in_a_search_it_goes_on_to_the_same_end(monkeypatch):
    """The second search, which is made before the second epoch, is stopped after three steps."""
    few = SearchSettings(heats=(Heat(arms=2, steps=2, images=4), Heat(arms=1, steps=2, images=4)), judged_on=8)
    monkeypatch.setattr(inverted_triggers, "QUICK", few)
    recipe = replace(DEFAULT, epochs=4, batch_size=16)
    whole = purify(received(), CLEAN, recipe=recipe, seed=1)
    kept, told = [], []

    def watch(at):
        told.append((at.epoch, at.searching is not None))

    def stop():
        return told.count((2, True)) == 3

    first = purify(received(), CLEAN, recipe=recipe, seed=1, save=kept.append, watch=watch, stop=stop)
    assert told[-1] == (2, True)
    assert not first.finished
    assert len(first.epochs) == 1
    assert (kept[-1].epoch, kept[-1].batch) == (2, 0)
    rest = purify(received(), CLEAN, recipe=recipe, seed=1, resume=kept[-1])
    assert [past.epoch for past in rest.rounds] == [1, 2]
    assert same(weights(whole), weights(rest))
