"""Open a model to see how it behaves: its accuracy where data is given, and the behaviour tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

ENOUGH = 1000
"""Images that tell an accuracy which nothing depends on."""


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
        effort: None for what can be done in reasonable time with what is known.
        tests: by name.
        accuracy: to be measured also where ``effort`` is quick. Data that the command names is used at any effort.
        reference: the model that it was purified from; the residual test is then made at any effort.

    Raises:
        SauError: what was asked for in so many words cannot be done.
    """
    _ = asked.pixels, asked.normalised(told=False)  # what makes no sense is said before anything is passed over
    wanted = Effort.STANDARD if effort is None else effort
    if tests != ALL_TESTS:
        from sau_cli.inspection.behaviour_tests import chosen_tests

        chosen_tests(tests)  # a name that no test has is said before anything is opened
    needs_data = asked.data is not None or reference is not None
    if wanted is Effort.QUICK and not (needs_data or accuracy):
        return (_not_examined("--effort quick looks at the file alone"),)
    try:
        opened, images = _opened(
            session,
            model,
            asked,
            needs_data=needs_data,
            gradients=wanted is not Effort.QUICK or reference is not None,
        )
    except SauError as error:
        # What only a rule of the policy wants is not asked for in so many words: the rule is then inconclusive.
        wrong_flag = isinstance(error, UsageError) and any((asked.arch, asked.image_size, asked.normalisation))
        if needs_data or wrong_flag or isinstance(error, UnsafeFile) or effort not in {None, Effort.QUICK}:
            raise
        return (_not_examined(error.told(flag_of)),)
    from sau_cli.devices import chosen_device
    from sau_cli.evaluation.recognition import RECOGNISED_BY, check_recognises
    from sau_cli.images import some_of

    chosen = chosen_device(device)
    session.findings.ran_on(device=str(chosen))
    classifier = opened.to(chosen)
    if images is not None:
        tested = images.for_testing
        session.findings.tell(data={"name": images.name, "images": len(tested), "sha256": tested.sha256})
    checks = () if images is None else (_accuracy(classifier, images, judged=accuracy or wanted is Effort.QUICK),)
    if reference is not None and images is not None:
        checks = (*checks, _residual(session, model, reference, asked, classifier, images, seed))
    if wanted is Effort.QUICK:
        return *checks, _not_examined("--effort quick looks at the file and the accuracy alone")
    session.findings.add(*checks)  # not to be lost if what follows fails
    if images is not None:
        check_recognises(classifier, some_of(images.for_testing, RECOGNISED_BY))
    try:
        return _behaviour(
            session, classifier, None if images is None else images.for_testing, wanted, effort, tests, seed
        )
    except NotEvaluable as error:
        if effort is not None:
            raise
        return (_not_examined(error.told(flag_of)),)


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

    tested = images.for_testing if judged else some_of(images.for_testing, ENOUGH)
    accuracy = evaluate(classifier, tested).accuracy
    evidence = f"top-1 accuracy on {accuracy.total} images of {images.name}"
    return Check(id="acc", status=CheckStatus.MEASURED, value=accuracy.value, ci95=accuracy.ci95, evidence=evidence)


def _behaviour(
    session: Session,
    classifier: Classifier,
    images: LabelledImages | None,
    wanted: Effort,
    asked: Effort | None,
    tests: AskedTests,
    seed: int,
) -> tuple[Check, ...]:
    from sau_adapters.images.pictures import recovered_trigger
    from sau_cli.devices import out_of_memory
    from sau_cli.inspection.behaviour import AFFORDABLE, cost, examine_behaviour
    from sau_cli.inspection.behaviour_checks import behaviour_checks, behaviour_details
    from sau_cli.inspection.behaviour_tests import chosen_tests
    from sau_cli.inspection.calibration import judge_behaviour

    names = classifier.description.class_names
    chosen, easiest = chosen_tests(tests), tests.wants(EASIEST_CHANGE)
    if not chosen:
        if images is None:
            raise NotEvaluable(f"without clean images {EASIEST_CHANGE} cannot be run; add --data")
        session.findings.tell(behaviour={})
        return (_easiest_change(session, classifier, images, seed, {}, at_any_cost=True),)
    operations = cost(classifier, with_data=images is not None, effort=wanted, tests=chosen)
    if asked is None and operations > AFFORDABLE and classifier.mean.device.type == "cpu":
        return (
            _not_examined(
                f"that takes some {operations / 1e12:,.0f} trillion operations on this network, many minutes on a CPU; "
                "add --effort standard to spend them"
            ),
        )
    try:
        with ProgressView(session, "behaviour", rounds="seed") as view:
            found = examine_behaviour(
                classifier, images, effort=wanted, seed=seed, tests=chosen, watch=_watching(view, wanted)
            )
    except RuntimeError as error:  # of the network: such as one that lets no gradient through
        if out_of_memory(error):
            raise
        raise NotEvaluable(f"the network cannot be examined by gradients ({reason_of(error)})") from error
    verdict = judge_behaviour(found)
    details = behaviour_details(found, verdict, names)
    if images is not None:
        place = found.classes.tolist().index(verdict.suspect)
        details["recovered"] = [
            recovered_trigger(test.id, one.changes[place], float(one.success[place]), images.images[0])
            for test, one in zip(found.tests, found.seeds[0].findings, strict=True)
            if one.changes is not None and one.success is not None
        ]
    session.findings.tell(behaviour=details)
    checks = behaviour_checks(found, verdict, names)
    if images is None or not easiest:
        return checks
    at_any_cost = wanted is Effort.DEEP or EASIEST_CHANGE in tests.only
    return *checks, _easiest_change(session, classifier, images, seed, details, at_any_cost=at_any_cost)


def _easiest_change(
    session: Session,
    classifier: Classifier,
    images: LabelledImages,
    seed: int,
    behaviour: Mapping[str, Any],
    *,
    at_any_cost: bool,
) -> Check:
    """The residual test of one model alone, which searches further than the other tests, at many times the cost."""
    from sau_cli.inspection.behaviour import AFFORDABLE
    from sau_cli.inspection.residual import operations_of
    from sau_cli.inspection.residual_checks import ALONE

    operations = operations_of(classifier)
    if not at_any_cost and operations > AFFORDABLE and classifier.mean.device.type == "cpu":
        why = f"that takes some {operations / 1e12:,.0f} trillion operations on this network; add --effort deep"
        return Check(id=ALONE, status=CheckStatus.SKIPPED, evidence=f"easiest changes were not searched for: {why}")
    check, details = residual_of(session, (classifier,), images, seed=seed, shared=False)
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
