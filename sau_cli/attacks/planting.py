"""Plant known backdoors: poison, train, and measure what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sau_cli.attacks.attack import Attack, LearningStopped, Poison, Scene
from sau_cli.attacks.attack_state import AttackState
from sau_cli.classifier import Classifier
from sau_cli.errors import UsageError, argument
from sau_cli.evaluation.metrics import Evaluation, evaluate
from sau_cli.images import ImageData, LabelledImages, check_fits
from sau_cli.predictions import predicted_labels
from sau_cli.resuming import check_same_run, digest_of
from sau_cli.seeding import stream_seed
from sau_cli.training import InTraining, TrainingProgress, TrainingSettings, train
from sau_cli.triggers.targets import TargetRule
from sau_cli.triggers.trigger import Trigger

HOLDS = 0.9
"""Of the triggered images that a backdoor sends to its target: with more, it holds."""
ROUNDS = 3
"""So often somebody's model is trained at most until the backdoor holds."""
JUDGED_ON = 1000
"""Training images on which that is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAttack:
    """An attack, and what it is to do.

    Attributes:
        name: for reports and the trigger's file.
        rate: share of the training images to poison; None for the attack's own.

    Raises:
        UsageError: a rule that is only text.
    """

    name: str
    attack: Attack
    rule: TargetRule
    rate: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rule, TargetRule):
            raise UsageError(f"the rule {self.rule!r} is no TargetRule; give parse_target({self.rule!r})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonCount:
    """What was done to the training images; of an attack in training, what is to be expected an epoch.

    Attributes:
        stamped: with the trigger, of which ``relabelled`` had another label.
        decoys: that look stamped and keep their label.
    """

    stamped: int
    relabelled: int
    decoys: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlantedBackdoor:
    """A known-bad classifier, its triggers, and the measures on the test part of the data.

    Attributes:
        triggers, poisoned: of each attack, none where ``stop`` came before all were prepared; what an attack in
            training poisons is not counted.
        rounds: of training that it took.
        finished: all was done; False where ``stop`` ended it before, and nothing was measured.
    """

    classifier: Classifier
    triggers: tuple[Trigger, ...]
    poisoned: tuple[PoisonCount, ...]
    trained_on: int
    evaluation: Evaluation | None
    rounds: int
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedAttack:
    """A training set with poison in it, and who made it.

    Attributes:
        free: (N,) bool, images that no attack has changed.
        learned: by each attack before.
    """

    images: LabelledImages
    free: Tensor
    scenes: tuple[Scene, ...]
    triggers: tuple[Trigger, ...]
    poisoned: tuple[PoisonCount, ...]
    learned: tuple[Mapping[str, Tensor], ...]


def prepare(
    classifier: Classifier,
    images: LabelledImages,
    planned: Sequence[PlannedAttack],
    *,
    fresh: bool,
    training: TrainingSettings,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    learned: Sequence[Mapping[str, Tensor]] = (),
    on_learned: Callable[[tuple[Mapping[str, Tensor], ...]], None] | None = None,
) -> PreparedAttack:
    """Learn what the attacks need, make their triggers, and poison the images, one attack after another.

    Args:
        learned: what the first attacks have learned before.
        on_learned: called with all that is learned so far, after each attack that learns.

    Raises:
        UsageError: a rate or a target that makes no sense, or attacks that contradict each other.
        NotEvaluable: a trigger that does not fit the images.
        LearningStopped: ``stop`` said so.
    """
    if not planned:
        raise UsageError(f"no attack is named; give one with {argument('attack')}")
    free = torch.ones(len(images), dtype=torch.bool)
    pixels, labels = images.images.clone(), images.labels.clone()
    done = list(learned)
    scenes: list[Scene] = []
    triggers: list[Trigger] = []
    counts: list[PoisonCount] = []
    for place, planned_attack in enumerate(planned):
        planned_attack.rule.check(images.classes)
        scene = Scene(
            classifier=classifier,
            fresh=fresh,
            images=images,
            free=free.clone(),
            rule=planned_attack.rule,
            rate=planned_attack.rate,
            training=training,
            seed=seed,
            label="" if place == 0 else f"{place}/",
            say=say,
            stop=stop,
        )
        planned_attack.attack.places(scene)  # a rate that makes no sense is said before anything is learned
        if place == len(done):
            done.append(planned_attack.attack.learn(scene))
            if on_learned and done[-1]:
                on_learned(tuple(done))
        stamping = planned_attack.attack.stamping(scene, done[place])
        trigger = Trigger(
            name=planned_attack.name,
            stamping=stamping,
            rule=planned_attack.rule,
            class_names=classifier.description.class_names,
        )
        _check_apart(trigger, triggers, images.images[:64])
        poison = planned_attack.attack.poison(scene, done[place], trigger)
        counts.append(_counted(poison, labels))
        pixels[poison.places], labels[poison.places] = poison.images, poison.labels
        free[poison.places] = False
        scenes.append(scene)
        triggers.append(trigger)
    return PreparedAttack(
        images=LabelledImages(images=pixels, labels=labels, class_names=images.class_names),
        free=free,
        scenes=tuple(scenes),
        triggers=tuple(triggers),
        poisoned=tuple(counts),
        learned=tuple(done),
    )


def attack(
    classifier: Classifier,
    data: ImageData,
    *,
    planned: Sequence[PlannedAttack],
    training: TrainingSettings,
    seed: int,
    received: Classifier | None = None,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[TrainingProgress], None] | None = None,
    save: Callable[[AttackState], None] | None = None,
    stop: Callable[[], bool] | None = None,
    resume: AttackState | None = None,
) -> PlantedBackdoor:
    """Train a copy of ``classifier`` on poisoned images. The given classifier is not changed.

    Args:
        classifier: freshly initialised, to train from scratch, or somebody's model, to implant into.
        data: its training part is poisoned; its test part measures the result.
        planned: one attack or several, which poison different images.
        received: somebody's model. It is trained for ``training.epochs`` at a time until every backdoor holds on
            training images, three times at most, and the result is measured against it.
        say: tells people what takes long.
        watch: called after every batch.
        save: called with the state after every epoch, and after what an attack has to learn before.
        stop: asked after every batch; True ends the work there.
        resume: the state to go on from.

    Raises:
        UsageError: an impossible rate or target, attacks that contradict each other, or a state of another run.
        NotEvaluable: data or a trigger that does not fit the model, or a loss that stops being finite.
    """
    check_fits(data.train, classifier.description)
    check_fits(data.for_testing, classifier.description)
    identity = _fingerprint(classifier, data, planned, training, seed)
    if resume is not None:
        check_same_run(resume.fingerprint, identity)
    state = resume or AttackState(fingerprint=identity)

    def keep(changed: AttackState) -> None:
        nonlocal state
        state = changed
        if save:
            save(changed)

    try:
        ready = prepare(
            classifier,
            data.train,
            planned,
            fresh=received is None,
            training=training,
            seed=seed,
            say=say,
            stop=stop or (lambda: False),
            learned=state.learned,
            on_learned=lambda learned: keep(replace(state, learned=learned)),
        )
    except LearningStopped:
        return PlantedBackdoor(
            classifier=deepcopy(classifier),
            triggers=(),
            poisoned=(),
            trained_on=len(data.train),
            evaluation=None,
            rounds=0,
            finished=False,
        )
    state = replace(state, learned=ready.learned)
    planted = deepcopy(classifier)
    planted.requires_grad_(True)
    if state.weights is not None:
        planted.network.load_state_dict(dict(state.weights))
    triggers, rounds, most = ready.triggers, state.rounds, 1 if received is None else ROUNDS
    finished = holds = False
    while not holds:
        parts = [
            planned_attack.attack.in_training(scene, trigger)
            for planned_attack, scene, trigger in zip(planned, ready.scenes, triggers, strict=True)
        ]
        finished = train(
            planted,
            ready.images,
            training,
            seed=seed if rounds == 0 else stream_seed(seed, f"round {rounds}"),
            free=ready.free,
            in_training=[part for part in parts if part is not None],
            watch=watch,
            save=lambda training_state: keep(replace(state, training=training_state)),
            stop=stop,
            resume=state.training,
        )
        if not finished:
            break
        rounds += 1
        triggers = _as_learned(triggers, parts)
        success = 1.0 if rounds == most else _least_success(planted, data.train, triggers)
        holds = success >= HOLDS
        if not holds:
            say(f"the backdoor works on {success:.1%} of training images after round {rounds}; training on")
            keep(_after_round(state, planted, triggers, rounds))
    if finished:
        say(f"measuring on {len(data.for_testing):,} test images")
    return PlantedBackdoor(
        classifier=planted,
        triggers=triggers,
        poisoned=ready.poisoned,
        trained_on=len(data.train),
        evaluation=evaluate(planted, data.for_testing, triggers=triggers, reference=received) if finished else None,
        rounds=rounds,
        finished=finished,
    )


def _as_learned(triggers: Sequence[Trigger], parts: Sequence[InTraining | None]) -> tuple[Trigger, ...]:
    """The triggers once training is over."""
    return tuple(
        trigger if part is None else replace(trigger, stamping=part.stamping(trigger.stamping))
        for trigger, part in zip(triggers, parts, strict=True)
    )


def _after_round(state: AttackState, planted: Classifier, triggers: Sequence[Trigger], rounds: int) -> AttackState:
    """The state between two rounds; what a stamp has learned in training is in the tensors of the attack."""
    learned = tuple(
        {name: trigger.tensors().get(name, tensor) for name, tensor in before.items()}
        for before, trigger in zip(state.learned, triggers, strict=True)
    )
    weights = {name: tensor.detach().cpu().clone() for name, tensor in planted.network.state_dict().items()}
    return replace(state, learned=learned, rounds=rounds, training=None, weights=weights)


def _counted(poison: Poison, labels: Tensor) -> PoisonCount:
    changed = poison.labels != labels[poison.places]
    return PoisonCount(
        stamped=int(poison.stamped.sum()), relabelled=int(changed.sum()), decoys=int((~poison.stamped).sum())
    )


def _check_apart(trigger: Trigger, others: Sequence[Trigger], images: Tensor) -> None:
    """Raises UsageError when another attack stamps images in the same way."""
    stamped = trigger.stamp(images)
    for other in others:
        if torch.equal(stamped, other.stamp(images)):
            what = (
                "does the same twice"
                if other.rule == trigger.rule
                else f"sends the same images to two targets ({other.rule}; {trigger.rule})"
            )
            raise UsageError(
                f"the attack {trigger.name} {what}; let its triggers differ, such as "
                f"{argument('attack')} badnets,trigger-place=top-left"
            )


def _least_success(classifier: Classifier, images: LabelledImages, triggers: Sequence[Trigger]) -> float:
    """The ASR of the weakest of the triggers, on some of the images."""
    some = images.take(torch.arange(0, len(images), max(1, len(images) // JUDGED_ON))[:JUDGED_ON])
    lowest = 1.0
    for trigger in triggers:
        counted = trigger.rule.counted(some.labels)
        said = predicted_labels(classifier, trigger.stamp(some.images[counted])).cpu()
        hit = said == trigger.rule.targets(some.labels[counted], some.classes)
        lowest = min(lowest, float(hit.float().mean()))
    return lowest


def _fingerprint(
    classifier: Classifier, data: ImageData, planned: Sequence[PlannedAttack], training: TrainingSettings, seed: int
) -> str:
    """A SHA-256 over all that decides the result of a run."""
    return digest_of(
        [
            (
                planned_attack.name,
                type(planned_attack.attack).__qualname__,
                planned_attack.attack.settings(),
                str(planned_attack.rule),
                planned_attack.rate,
            )
            for planned_attack in planned
        ],
        (training, seed, classifier.description),
        data.train.images,
        data.train.labels,
        *(part for pair in classifier.network.state_dict().items() for part in pair),
    )
