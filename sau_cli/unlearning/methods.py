"""The methods of ``sau purify``, and the settings of each. Needs no torch.

Shared Adversarial Unlearning has its settings in :mod:`sau_cli.unlearning.recipes`; the others are here, as the
field runs them for comparison. All learn from the same clean images, varied alike, and see no trigger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from sau_cli.errors import UsageError
from sau_cli.unlearning.ranges import Count, Decay, Portion, Positive, Weight, check_ranges
from sau_cli.unlearning.recipes import Recipe, RecipeName, Schedule, recipe_for

if TYPE_CHECKING:
    from sau_cli.images import LabelledImages


class MethodName(StrEnum):
    """``sau``: Shared Adversarial Unlearning. ``ft``: fine-tuning. ``ft-sam``: fine-tuning with sharpness-aware
    minimisation. ``i-bau``: unlearning of a universal perturbation by an implicit hypergradient. ``d3``: a new head,
    far from the received one. ``fst``: a new head, turned away from the received one.
    """

    SAU = "sau"
    FT = "ft"
    FT_SAM = "ft-sam"
    I_BAU = "i-bau"
    D3 = "d3"
    FST = "fst"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """SGD with momentum 0.9 and weight decay 5e-4 on clean images; batch norm by the batch, dropout off.

    Attributes:
        epochs, lr, batch_size, schedule, augment, balanced, halvings: see
            :class:`~sau_cli.unlearning.recipes.Recipe`.
        rho: radius of adaptive sharpness-aware minimisation; 0 for plain fine-tuning.
        label_smoothing: share of each label that is spread over all classes, in [0, 1).

    Raises:
        UsageError: a value that makes no sense, by name.

    Source: the settings in which BackdoorBench compares; FT-SAM: Zhu et al., "Enhancing Fine-Tuning Based Backdoor
    Defense with Sharpness-Aware Minimization", ICCV 2023, arXiv 2304.11823 (ρ 2; 8 on GTSRB and Tiny ImageNet).
    """

    epochs: Count = 100
    lr: Positive = 0.01
    batch_size: Count = 256
    schedule: Schedule = Schedule.COSINE
    augment: bool = True
    balanced: bool = True
    halvings: Count = 3
    rho: Weight = 0.0
    label_smoothing: Decay = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def name(self) -> MethodName:
        return MethodName.FT_SAM if self.rho > 0 else MethodName.FT

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for history and reports."""
        return _settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitUnlearning:
    """Rounds of: find one perturbation for all clean images, then unlearn it, with Adam and frozen batch norm.

    Attributes:
        epochs: rounds.
        lr, batch_size, schedule, augment, balanced, halvings: see :class:`~sau_cli.unlearning.recipes.Recipe`.
        penalty: weight of ‖δ‖² in the search, with δ on pixels in [0, 1].
        search_rate: learning rate of the search for δ, one step a batch.
        radius: a longer δ is shortened to this L2 norm when the search is over.
        portion: share of a batch that is perturbed while unlearning, one image at least.
        fixed_point_steps: of the implicit gradient.
        inner_rate: step of the map whose fixed point δ is taken for.

    Raises:
        UsageError: a value that makes no sense, by name.

    Source: Zeng et al., "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR 2022,
    arXiv 2110.03735. Their problem perturbs every image, by δ of a bounded norm. Their code perturbs a hundredth of
    them, which is the default, and names the bound of 10 but leaves it out; without it, digits lose half of the ACC.
    """

    epochs: Count = 5
    lr: Positive = 1e-4
    batch_size: Count = 256
    schedule: Schedule = Schedule.CONSTANT
    augment: bool = True
    balanced: bool = True
    halvings: Count = 3
    penalty: Weight = 1e-3
    search_rate: Positive = 10.0
    radius: Positive = 10.0
    portion: Portion = 0.01
    fixed_point_steps: Count = 5
    inner_rate: Positive = 0.1

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def name(self) -> MethodName:
        return MethodName.I_BAU

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for history and reports."""
        return _settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distancing:
    """A head drawn anew, and SGD with momentum 0.9 that takes it as far from the received one as accuracy allows.

    The loss is (λ · mean of max(0, cross-entropy of an image - margin) - ‖W - W0‖) / (λ + 1), and after each step W is
    brought back to ‖W‖ = ‖W0‖, with W the head's weights and W0 the received ones. All weights learn; batch norm by the
    batch, dropout off, no weight decay.

    Attributes:
        epochs, lr, batch_size, schedule, augment, balanced, halvings: see
            :class:`~sau_cli.unlearning.recipes.Recipe`.
        clean_weight: λ, of learning the clean images, against the distance.
        margin: cross-entropy of an image below which it is learned well enough, 0 or more.
        whole: W is every weight of the network, all on one sphere, in place of the head's.

    Raises:
        UsageError: a value that makes no sense, by name.

    Source: Wei et al., "Backdoor Mitigation by Distance-Driven Detoxification" (D3), ICCV 2025, arXiv 2411.09585.
    Their code keeps the received biases; here the head's are drawn anew as well.
    """

    epochs: Count = 100
    lr: Positive = 0.01
    batch_size: Count = 256
    schedule: Schedule = Schedule.COSINE
    augment: bool = True
    balanced: bool = True
    halvings: Count = 3
    clean_weight: Positive = 10.0
    margin: Weight = 0.1
    whole: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def name(self) -> MethodName:
        return MethodName.D3

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for history and reports."""
        return _settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShift:
    """A head drawn anew, and SGD with momentum 0.9 on the cross-entropy + α · ⟨W, W0⟩, so that features must shift.

    W are the head's weights, which keep the norm of the received ones, W0. All weights learn; batch norm by the batch,
    dropout off, no weight decay.

    Attributes:
        epochs, lr, batch_size, schedule, augment, balanced, halvings: see
            :class:`~sau_cli.unlearning.recipes.Recipe`.
        alpha: α, of turning away from the received head.

    Raises:
        UsageError: a value that makes no sense, by name.

    Source: Min et al., "Towards Stable Backdoor Purification through Feature Shift Tuning" (FST), NeurIPS 2023,
    arXiv 2310.01875 (α 0.1 to 0.2).
    """

    epochs: Count = 10
    lr: Positive = 0.01
    batch_size: Count = 256
    schedule: Schedule = Schedule.COSINE
    augment: bool = True
    balanced: bool = True
    halvings: Count = 3
    alpha: Weight = 0.1

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def name(self) -> MethodName:
        return MethodName.FST

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for history and reports."""
        return _settings(self)


OtherSettings: TypeAlias = FineTuning | ImplicitUnlearning | Distancing | FeatureShift
MethodSettings: TypeAlias = Recipe | OtherSettings
SHARED = {"epochs", "lr", "batch_size"}
OWN: Mapping[MethodName, frozenset[str]] = {
    MethodName.SAU: frozenset(
        {
            *("epsilon", "step", "steps"),
            *("clean_weight", "unlearning_weight", "adversarial_weight", "shared_weight"),
        }
    ),
    MethodName.FT: frozenset(),
    MethodName.FT_SAM: frozenset({"rho"}),
    MethodName.I_BAU: frozenset(),
    MethodName.D3: frozenset({"clean_weight"}),
    MethodName.FST: frozenset({"alpha"}),
}
"""What can be set of each method beside epochs, learning rate and batch size."""


def method_of(settings: MethodSettings) -> MethodName:
    """Which method settings are of."""
    return MethodName.SAU if isinstance(settings, Recipe) else settings.name


def settings_for(
    method: MethodName, recipe: RecipeName | None = None, *, learning: LabelledImages | None = None, **overrides: Any
) -> MethodSettings:
    """The settings of a method; overrides that are None keep the method's own value.

    Args:
        recipe: of Shared Adversarial Unlearning alone; None for its default.
        learning: what there is to learn from.

    Raises:
        UsageError: a setting, or a recipe, that the method does not have.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if recipe is not None and method is not MethodName.SAU:
        raise UsageError(f"--recipe is of --method sau, and this is {method}; leave one of them out")
    for name in given:
        if name not in SHARED | OWN[method]:
            owner = next(one for one, own in OWN.items() if name in own)
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is a setting of --method {owner}, and {method} has none such; leave it out")
    match method:
        case MethodName.SAU:
            return recipe_for(recipe or RecipeName.DEFAULT, learning=learning, **given)
        case MethodName.FT:
            return FineTuning(**given)
        case MethodName.FT_SAM:
            return FineTuning(**{"rho": 2.0, "label_smoothing": 0.1} | given)
        case MethodName.I_BAU:
            return ImplicitUnlearning(**given)
        case MethodName.D3:
            return Distancing(**given)
        case MethodName.FST:
            return FeatureShift(**given)
        case _ as never:
            assert_never(never)


def settings_told(told: Mapping[str, Any]) -> MethodSettings | None:
    """The settings that a model's history tells of its purification; None where they are none of this version's."""
    try:
        method = MethodName(told.get("method", "sau"))
        match method:
            case MethodName.SAU:
                kind: type[Any] = Recipe
            case MethodName.FT | MethodName.FT_SAM:
                kind = FineTuning
            case MethodName.I_BAU:
                kind = ImplicitUnlearning
            case MethodName.D3:
                kind = Distancing
            case MethodName.FST:
                kind = FeatureShift
            case _ as never:
                assert_never(never)
        known = {one.name: one for one in fields(kind)}
        values = {name: _like(known[name].default, value) for name, value in told.items() if name in known}
        made: MethodSettings = kind(**values)
        return made
    except (TypeError, ValueError, OverflowError, UsageError):
        return None


def _like(default: Any, value: Any) -> Any:
    """A value as JSON tells it, of the type that the default has."""
    if isinstance(default, bool) is not isinstance(value, bool):
        raise TypeError(type(value))
    return type(default)(value)


def _settings(settings: OtherSettings) -> dict[str, Any]:
    return {"name": settings.name} | {field.name: getattr(settings, field.name) for field in fields(settings)}
