"""Methods to compare with, as the field runs them: the settings of each, and how it begins. Needs no torch.

All learn from the same clean images as Shared Adversarial Unlearning, varied alike, and see no trigger. A new one is
a subclass of :class:`ComparedMethod` in a file of its own, and a line in
:class:`~sau_cli.unlearning.methods.MethodName`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sau_cli.precision import Precision
from sau_cli.settings import Count, Decay, Portion, Positive, Weight, check_settings, setting, values_of
from sau_cli.unlearning.recipes import BATCH_SIZE, EPOCHS, LR, Schedule

if TYPE_CHECKING:
    from sau_cli.unlearning.batch_step import BatchStep, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedMethod(ABC):
    """The settings that each has.

    Attributes:
        epochs, lr, batch_size, schedule, augment, balanced, halvings: see :class:`~sau_cli.unlearning.recipes.Recipe`.
        own_precision: the precision that it is meant to be run in, where it is one.
        in_parts: whether a batch can be worked off in parts.
        in_teams: whether several processes can share the work.

    Raises:
        UsageError: a value that makes no sense, by name.
    """

    own_precision: ClassVar[Precision | None] = None
    in_parts: ClassVar[bool] = True
    in_teams: ClassVar[bool] = False

    epochs: Count = setting(100, EPOCHS)
    lr: Positive = setting(0.01, LR)
    batch_size: Count = setting(256, BATCH_SIZE)
    schedule: Schedule = Schedule.COSINE
    augment: bool = True
    balanced: bool = True
    halvings: Count = 3

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called."""

    @abstractmethod
    def begin(self, work: Work) -> BatchStep:
        """It as a step on a batch, on these classifiers and images."""

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for history and reports."""
        return {"name": self.name} | values_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning(ComparedMethod):
    """SGD with momentum 0.9 and weight decay 5e-4 on clean images; batch norm by the batch, dropout off.

    Attributes:
        rho: radius of adaptive sharpness-aware minimisation; 0 for plain fine-tuning.
        label_smoothing: share of each label that is spread over all classes, in [0, 1).

    Raises:
        UsageError: a value that makes no sense, by name.

    Source: the settings in which BackdoorBench compares; FT-SAM: Zhu et al., "Enhancing Fine-Tuning Based Backdoor
    Defense with Sharpness-Aware Minimization", ICCV 2023, arXiv 2304.11823 (ρ 2; 8 on GTSRB and Tiny ImageNet).
    """

    rho: Weight = setting(0.0, "Radius of ft-sam, adaptive to the weights")
    label_smoothing: Decay = 0.0

    @property
    def name(self) -> str:
        return "ft-sam" if self.rho > 0 else "ft"

    def begin(self, work: Work) -> BatchStep:
        from sau_cli.unlearning.fine_tuning import FineTuner

        return FineTuner(work, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitUnlearning(ComparedMethod):
    """Rounds of: find one perturbation for all clean images, then unlearn it, with Adam and frozen batch norm.

    Attributes:
        epochs: rounds.
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

    own_precision: ClassVar[Precision | None] = Precision.FP32
    in_parts: ClassVar[bool] = False

    epochs: Count = setting(5, EPOCHS)
    lr: Positive = setting(1e-4, LR)
    schedule: Schedule = Schedule.CONSTANT
    penalty: Weight = 1e-3
    search_rate: Positive = 10.0
    radius: Positive = 10.0
    portion: Portion = 0.01
    fixed_point_steps: Count = 5
    inner_rate: Positive = 0.1

    @property
    def name(self) -> str:
        return "i-bau"

    def begin(self, work: Work) -> BatchStep:
        from sau_cli.unlearning.implicit_unlearning import ImplicitUnlearner

        return ImplicitUnlearner(work, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distancing(ComparedMethod):
    """A head drawn anew, and SGD with momentum 0.9 that takes it as far from the received one as accuracy allows.

    The loss is (λ · mean of max(0, cross-entropy of an image - margin) - ‖W - W0‖) / (λ + 1), and after each step W is
    brought back to ‖W‖ = ‖W0‖, with W the head's weights and W0 the received ones. All weights learn; batch norm by the
    batch, dropout off, no weight decay.

    Attributes:
        clean_weight: λ, of learning the clean images, against the distance.
        margin: cross-entropy of an image below which it is learned well enough, 0 or more.
        whole: W is every weight of the network, all on one sphere, in place of the head's.

    Raises:
        UsageError: a value that makes no sense, by name.

    Source: Wei et al., "Backdoor Mitigation by Distance-Driven Detoxification" (D3), ICCV 2025, arXiv 2411.09585.
    Their code keeps the received biases; here the head's are drawn anew as well.
    """

    clean_weight: Positive = setting(10.0, "λ of d3, against the distance")
    margin: Weight = 0.1
    whole: bool = False

    @property
    def name(self) -> str:
        return "d3"

    def begin(self, work: Work) -> BatchStep:
        from sau_cli.unlearning.d3 import Distancer

        return Distancer(work, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShift(ComparedMethod):
    """A head drawn anew, and SGD with momentum 0.9 on the cross-entropy + α · ⟨W, W0⟩, so that features must shift.

    W are the head's weights, which keep the norm of the received ones, W0. All weights learn; batch norm by the batch,
    dropout off, no weight decay.

    Attributes:
        alpha: α, of turning away from the received head.

    Raises:
        UsageError: a value that makes no sense, by name.

    Source: Min et al., "Towards Stable Backdoor Purification through Feature Shift Tuning" (FST), NeurIPS 2023,
    arXiv 2310.01875 (α 0.1 to 0.2).
    """

    epochs: Count = setting(10, EPOCHS)
    alpha: Weight = setting(0.1, "α of fst, of turning away from the received head")

    @property
    def name(self) -> str:
        return "fst"

    def begin(self, work: Work) -> BatchStep:
        from sau_cli.unlearning.fst import FeatureShifter

        return FeatureShifter(work, self)
