"""Open a model to see how it behaves: its accuracy where data is given, and the behaviour tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau_cli.commands.inputs import Request, names_data, open_model_alone, open_model_and_data, received
from sau_cli.commands.options import flag_of
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.residual_view import residual_of
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable, SauError, UnsafeFile, UsageError, reason_of
from sau_cli.inspection.effort import ALL_TESTS, EASIEST_CHANGE, AskedTests, Effort
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_cli.classifier import Classifier
    from sau_cli.images import ImageData, LabelledImages
    from sau_cli.inspection.behaviour import Behaviour
    from sau_cli.inspection.behaviour_test import BehaviourTest

ACCURACY_IMAGES = 1000
"""Images that tell an accuracy which nothing depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """How hard to look, and at what.

    Attributes:
        asked: the effort that was; None for what can be done in reasonable time with what is known.
        tests: by name.
    """

    asked: Effort | None
    tests: AskedTests
    seed: int

    @property
    def effort(self) -> Effort:
        return Effort.STANDARD if self.asked is None else self.asked


def examine(
    session: Session,
    model: OpenedModel,
    asked: Request,
    *,
    effort: Effort | None,
    tests: AskedTests,
    accuracy: bool,
    device: str,
    seed: int,
    reference: Path | None = None,
) -> tuple[Check, ...]:
    """Accuracy and behaviour, as far as they can be had; what cannot is a skipped check with its reason.

    Args:
        effort, tests, seed: see :class:`Examination`.
        accuracy: to be measured also where ``effort`` is quick. Data that the command names is used at any effort.
        reference: the model that it was purified from; the residual test is then made at any effort.

    Raises:
        SauError: what was asked for in so many words cannot be done.
    """
    _ = asked.pixels, asked.normalised(told=False)  # what makes no sense is said before anything is passed over
    if tests != ALL_TESTS:
        from sau_cli.inspection.behaviour_tests import chosen_tests

        chosen_tests(tests)  # a name that no test has is said before anything is opened
    how = Examination(asked=effort, tests=tests, seed=seed)
    quick = how.effort is Effort.QUICK
    needs_data = asked.data is not None or reference is not None
    if quick and not (needs_data or accuracy):
        return (_not_examined("--effort quick looks at the file alone"),)
    try:
        opened, images = _opened(
            session, model, asked, needs_data=needs_data, gradients=not quick or reference is not None
        )
    except SauError as error:
        # What only a rule of the policy wants is not asked for in so many words: the rule is then inconclusive.
        wrong_flag = isinstance(error, UsageError) and any((asked.arch, asked.image_size, asked.normalisation))
        if needs_data or wrong_flag or isinstance(error, UnsafeFile) or effort not in {None, Effort.QUICK}:
            raise
        return (_not_examined(error.told(flag_of)),)
    from sau_cli.devices import chosen_device

    chosen = chosen_device(device)
    session.findings.ran_on(device=str(chosen))
    classifier = opened.to(chosen)
    if images is not None:
        tested = images.for_testing
        session.findings.tell(data={"name": images.name, "images": len(tested), "sha256": tested.sha256})
    checks = () if images is None else (_accuracy(classifier, images, judged=accuracy or quick),)
    if reference is not None and images is not None:
        checks = (*checks, _residual(session, model, reference, asked, classifier, images, seed))
    if quick:
        return *checks, _not_examined("--effort quick looks at the file and the accuracy alone")
    session.findings.add(*checks)  # not to be lost if what follows fails
    return _behaviour(session, classifier, images, how)


def _residual(
    session: Session,
    model: OpenedModel,
    reference: Path,
    asked: Request,
    classifier: Classifier,
    images: ImageData,
    seed: int,
) -> Check:
    """The residual test of a model beside that which it was purified from.

    Raises:
        UsageError: both are the same file.
    """
    checkpoint = received(session, reference)
    if checkpoint.sha256 == model.sha256:
        raise UsageError(
            f"--reference {reference} holds the same bytes as {model.path}; give the model before purification"
        )
    before, _ = open_model_and_data(
        session, reference, asked, data=images, checkpoint=checkpoint, like=classifier.description, to_learn=True
    )
    pair = (classifier, before.classifier.to(classifier.mean.device))
    check, details = residual_of(
        session, pair, images.for_testing, seed=seed, shared=True, unlearned=_unlearned(classifier)
    )
    session.findings.tell(residual=details)
    return check


def _unlearned(classifier: Classifier) -> frozenset[int] | None:
    """The classes that the last purification came to, as the file tells; None where it does not."""
    known = classifier.description
    steps = [step for step in known.history if step.step == "purify"]
    told = steps[-1].settings.get("unlearned") if steps else None
    if not isinstance(told, list | tuple):
        return None
    return frozenset(place for place, name in enumerate(known.class_names) if name in told)


def _not_examined(why: str) -> Check:
    told = f"whether the model behaves like a backdoored one was not examined: {why}"
    return Check(id="model.behaviour", status=CheckStatus.SKIPPED, evidence=told)


def _opened(
    session: Session, model: OpenedModel, asked: Request, *, needs_data: bool, gradients: bool
) -> tuple[Classifier, ImageData | None]:
    """The model, with data where some is named and can be opened."""
    if needs_data or names_data(asked, model.facts.description):
        try:
            opened, images = open_model_and_data(
                session, model.located.spec, asked, checkpoint=model, to_learn=gradients
            )
        except UsageError as error:
            if needs_data:
                raise
            session.show(f"going on without data: {error.told(flag_of)}")
        else:
            return opened.classifier, images
    return open_model_alone(asked, model, to_learn=gradients).classifier, None


def _accuracy(classifier: Classifier, images: ImageData, *, judged: bool) -> Check:
    """Measured on all test images where a limit depends on it, else on as many as tell what kind of model it is."""
    from sau_cli.evaluation.metrics import evaluate
    from sau_cli.images import some_of

    tested = images.for_testing if judged else some_of(images.for_testing, ACCURACY_IMAGES)
    accuracy = evaluate(classifier, tested).accuracy
    evidence = f"top-1 accuracy on {accuracy.total} images of {images.name}"
    return Check(id="acc", status=CheckStatus.MEASURED, value=accuracy.value, ci95=accuracy.ci95, evidence=evidence)


def _behaviour(
    session: Session, classifier: Classifier, images: ImageData | None, how: Examination
) -> tuple[Check, ...]:
    """Whether it behaves like a backdoored model.

    Raises:
        NotEvaluable: that cannot be told, and was asked for.
    """
    from sau_cli.evaluation.recognition import RECOGNISED_BY, check_recognises
    from sau_cli.images import some_of

    if images is not None:
        check_recognises(classifier, some_of(images.for_testing, RECOGNISED_BY))
    try:
        return _tested(session, classifier, None if images is None else images.for_testing, how)
    except NotEvaluable as error:
        if how.asked is not None:
            raise
        return (_not_examined(error.told(flag_of)),)


def _tested(
    session: Session, classifier: Classifier, images: LabelledImages | None, how: Examination
) -> tuple[Check, ...]:
    """The behaviour tests, and the search for the easiest change."""
    from sau_cli.inspection.behaviour_checks import behaviour_checks, behaviour_details
    from sau_cli.inspection.behaviour_tests import chosen_tests
    from sau_cli.inspection.calibration import judge_behaviour

    names, tests = classifier.description.class_names, chosen_tests(how.tests)
    if not tests:
        if images is None:
            raise NotEvaluable(f"without clean images {EASIEST_CHANGE} cannot be run; add --data")
        session.findings.tell(behaviour={})
        return (_easiest_change(session, classifier, images, how, {}),)
    if dear := _too_dear(classifier, images, how, tests):
        return (dear,)
    found = _examined(session, classifier, images, how, tests)
    verdict = judge_behaviour(found)
    details = behaviour_details(found, verdict, names)
    if images is not None:
        details["recovered"] = _recovered(found, verdict.suspect, images)
    session.findings.tell(behaviour=details)
    checks = behaviour_checks(found, verdict, names)
    if images is None or not how.tests.wants(EASIEST_CHANGE):
        return checks
    return *checks, _easiest_change(session, classifier, images, how, details)


def _too_dear(
    classifier: Classifier, images: LabelledImages | None, how: Examination, tests: Sequence[BehaviourTest]
) -> Check | None:
    """Why the tests are not run unasked; None where they are."""
    from sau_cli.inspection.behaviour import AFFORDABLE, cost

    if how.asked is not None or classifier.mean.device.type != "cpu":
        return None
    operations = cost(classifier, with_data=images is not None, effort=how.effort, tests=tests)
    if operations <= AFFORDABLE:
        return None
    return _not_examined(
        f"that takes some {operations / 1e12:,.0f} trillion operations on this network, many minutes on a CPU; "
        "add --effort standard to spend them"
    )


def _examined(
    session: Session,
    classifier: Classifier,
    images: LabelledImages | None,
    how: Examination,
    tests: Sequence[BehaviourTest],
) -> Behaviour:
    """What the tests find.

    Raises:
        NotEvaluable: the network lets no gradient through, or what the tests themselves raise.
    """
    from sau_cli.devices import out_of_memory
    from sau_cli.inspection.behaviour import examine_behaviour

    try:
        with ProgressView(session, "behaviour", rounds="seed") as view:
            watch = _watching(view, how.effort)
            return examine_behaviour(classifier, images, effort=how.effort, seed=how.seed, tests=tests, watch=watch)
    except RuntimeError as error:  # of the network: such as one that lets no gradient through
        if out_of_memory(error):
            raise
        raise NotEvaluable(f"the network cannot be examined by gradients ({reason_of(error)})") from error


def _recovered(found: Behaviour, suspect: int, images: LabelledImages) -> list[dict[str, Any]]:
    """The changes that lead to the suspect, as pictures for reports."""
    from sau_adapters.images.pictures import recovered_trigger

    place = found.classes.tolist().index(suspect)
    return [
        recovered_trigger(test.id, finding.changes[place], float(finding.success[place]), images.images[0])
        for test, finding in zip(found.tests, found.seeds[0].findings, strict=True)
        if finding.changes is not None and finding.success is not None
    ]


def _easiest_change(
    session: Session,
    classifier: Classifier,
    images: LabelledImages,
    how: Examination,
    behaviour: Mapping[str, Any],
) -> Check:
    """The residual test of one model alone, which searches further than the other tests, at many times the cost.

    Args:
        behaviour: what the other tests found, for reports; nothing where there is none.
    """
    from sau_cli.inspection.behaviour import AFFORDABLE
    from sau_cli.inspection.residual import operations_of
    from sau_cli.inspection.residual_checks import ALONE_CHECK

    operations = operations_of(classifier)
    at_any_cost = how.effort is Effort.DEEP or EASIEST_CHANGE in how.tests.only or not behaviour
    if not at_any_cost and operations > AFFORDABLE and classifier.mean.device.type == "cpu":
        why = f"that takes some {operations / 1e12:,.0f} trillion operations on this network; add --effort deep"
        return Check(
            id=ALONE_CHECK, status=CheckStatus.SKIPPED, evidence=f"easiest changes were not searched for: {why}"
        )
    check, details = residual_of(session, (classifier,), images, seed=how.seed, shared=False)
    session.findings.tell(behaviour={**behaviour, "easiest_change": details})
    return check


def _watching(view: ProgressView, effort: Effort) -> Callable[[int, int, str], None]:
    def watch(done: int, of: int, what: str) -> None:
        each = of // effort.seeds
        if done:
            view.update(
                epoch=(done - 1) // each + 1,
                epochs=effort.seeds,
                batch=(done - 1) % each + 1,
                batches=each,
                measures=what,
            )

    return watch
