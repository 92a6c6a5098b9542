"""Options of the balances, without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from modereg.errors import ConfigurationError
from modereg.numbers import check_numbers

if TYPE_CHECKING:
    from modereg.balances.base import Balance
    from modereg.transforms import MIReward

__all__ = [
    "BALANCES",
    "BalanceConfig",
    "BoundConfig",
    "ConstantConfig",
    "Figure",
    "GateConfig",
    "MultiplierConfig",
    "ScheduleConfig",
]

Figure = Literal["success", "return"]
"""What a code achieves."""


@dataclass(frozen=True)
class ConstantConfig:
    """One weight all along.

    Attributes:
        coef: weight of the intrinsic reward, which is divided by H(p), beside returns that are
            divided by their size; 0 leaves it out.
    """

    name: ClassVar[str] = "constant"

    coef: float = 0.3

    def __post_init__(self) -> None:
        check_numbers(self, nonnegative=("coef",))

    def make(self, mi_reward: MIReward, **_: Any) -> Balance:
        """Return the balance of a reward; its module needs torch, which options must not."""
        return _made("ConstantBalance", mi_reward, self)


@dataclass(frozen=True)
class ScheduleConfig:
    """From one weight to another, linearly in the environment steps.

    Attributes:
        start: weight at the start.
        end: weight at the end.
        share: share of the environment steps, those of stage 1 left out, at which the end is
            reached.
    """

    name: ClassVar[str] = "schedule"

    start: float = 1.0
    end: float = 0.1
    share: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, nonnegative=("start", "end"), share=("share",))

    def make(self, mi_reward: MIReward, *, env_steps: int, **_: Any) -> Balance:
        """Return the balance of a reward, for a run of so many environment steps."""
        return _made("ScheduleBalance", mi_reward, self, self.share * env_steps)


@dataclass(frozen=True)
class GateConfig:
    """The intrinsic reward is paid to the codes that achieve about the reference (SMERL).

    Attributes:
        coef: weight of the intrinsic reward where it is paid.
        share: share of the reference that a code must achieve.
        figure: what is achieved, ``success`` or ``return``; None takes success where the task has
            it.
        reference: what plain fine-tuning achieves; None takes the best code's.
        window: the latest episodes of a code, of which the mean is taken.
    """

    name: ClassVar[str] = "gate"

    coef: float = 0.3
    share: float = 0.9
    figure: Figure | None = None
    reference: float | None = None
    window: int = 32

    def __post_init__(self) -> None:
        _check_achievement(self)

    def make(self, mi_reward: MIReward, **_: Any) -> Balance:
        """Return the balance of a reward."""
        return _made("GateBalance", mi_reward, self)


@dataclass(frozen=True)
class MultiplierConfig:
    """A multiplier for each code: the less it achieves, the smaller is its weight (DOMiNO).

    Attributes:
        coef: largest weight of the intrinsic reward; a code begins at 0.3 of it.
        share: share of the reference that each code is to achieve.
        rate: how far one episode that achieves nothing moves the logit of its code's weight.
        figure: what is achieved, ``success`` or ``return``; None takes success where the task has
            it. By the return, codes whose behaviour pays less are let go.
        reference: what plain fine-tuning achieves; None takes the best code's.
        window: the latest episodes of a code, of which the mean is taken.
    """

    name: ClassVar[str] = "multiplier"

    coef: float = 1.0
    share: float = 0.9
    rate: float = 0.5
    figure: Figure | None = None
    reference: float | None = None
    window: int = 32

    def __post_init__(self) -> None:
        _check_achievement(self)
        check_numbers(self, positive=("rate",))

    def make(self, mi_reward: MIReward, **_: Any) -> Balance:
        """Return the balance of a reward."""
        return _made("MultiplierBalance", mi_reward, self)


@dataclass(frozen=True)
class BoundConfig:
    """A Lagrange multiplier: as little weight as keeps what q reads of the codes.

    Attributes:
        coef: weight of the intrinsic reward at the start.
        share: share of the reference that is to be kept.
        rate: how far one episode of which q reads nothing moves the logarithm of the weight.
        limits: least and largest weight.
        reference: ``start``, what q read at the start, or ``prior``, H(p), which is all there is to
            read; None takes ``start`` after stage 1, else ``prior``.
        window: the latest episodes, of which the mean is taken.
    """

    name: ClassVar[str] = "bound"

    coef: float = 1.0
    share: float = 0.95
    rate: float = 0.002
    limits: tuple[float, float] = (0.1, 3.0)
    reference: Literal["start", "prior"] | None = None
    window: int = 512

    def __post_init__(self) -> None:
        check_numbers(
            self, positive=("coef", "rate", "limits"), share=("share",), count=("window",)
        )
        least, largest = self.limits
        if not least <= self.coef <= largest:
            raise ConfigurationError(f"expected coef within limits {self.limits}, got {self.coef}")
        _check_word("reference", self.reference, ("start", "prior"))

    def make(self, mi_reward: MIReward, *, discovered: bool = True, **_: Any) -> Balance:
        """Return the balance of a reward, whose codes command something from the start or not."""
        reference = self.reference or ("start" if discovered else "prior")
        return _made("BoundBalance", mi_reward, replace(self, reference=reference))


BalanceConfig = ConstantConfig | ScheduleConfig | GateConfig | MultiplierConfig | BoundConfig
"""What chooses a balance."""

BALANCES: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (ConstantConfig, ScheduleConfig, GateConfig, MultiplierConfig, BoundConfig)
}
"""The balances by name."""


def _made(name: str, *arguments: Any) -> Balance:
    balance: Balance = getattr(import_module("modereg.balances.rules"), name)(*arguments)
    return balance


def _check_achievement(config: GateConfig | MultiplierConfig) -> None:
    check_numbers(config, nonnegative=("coef",), share=("share",), count=("window",))
    _check_word("figure", config.figure, ("success", "return"))
    if config.reference is not None and not abs(config.reference) < float("inf"):
        raise ConfigurationError(f"expected a finite reference, got {config.reference}")


def _check_word(option: str, value: str | None, words: tuple[str, str]) -> None:
    if value not in (*words, None):
        raise ConfigurationError(f"expected {option} of {words} or None, got {value!r}")
