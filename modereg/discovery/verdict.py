"""The verdict of stage 1: which codes command, which do not, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modereg.discovery.worth import SIGNIFICANT
from modereg.metrics import PRESENT

__all__ = ["REACHED", "CodeVerdict", "Verdict", "losses", "verdict_of"]

REACHED = 0.8
"""Share of its episodes in which a code must reach itself, with success, to count as commanded."""

FEW = 20
"""Episodes of the base in which a code must have been reached for its outcome to be learned."""

MOSTLY = 0.5
"""Share of chance in an outcome's variance above which chance decides it."""

OFTEN = 0.01
"""Above the usual share by so much of it a code counts as drawn more often."""

NEARLY = 0.5
"""Hits from which a code is on its way."""

ADVICE = {
    "nearly": "it is on its way: more rounds (--method.refinements), or fine-tuning from here",
    "chance": "what the environment does after the noise was drawn decides it: a residual on the "
    "chunk reaches further than noise (--method.residual 0.5), and more decisions an episode (a "
    "smaller execute) react sooner",
    "few episodes": "collect more episodes of the base (--method.episodes)",
    "feature": "its episodes are told from another code's by nothing that the discoverer sees: "
    "name other feature keys, or ask for fewer codes",
    "noise": "the policy hardly does it, whatever its noise: move the chunk itself "
    "(--method.residual 0.5), or give it more demonstrations",
}
"""What to do about a code that does not command, by the reason."""

MOVED = {
    "chance": "what the environment does decides it, though the chunk is moved: more decisions an "
    "episode (a smaller execute) react sooner",
    "noise": "the policy hardly does it, though the chunk is moved: give it more demonstrations, "
    "or fine-tune from here",
}
"""The same, of the reasons that are others where a residual moves the chunks already."""


@dataclass(frozen=True)
class CodeVerdict:
    """What became of one code.

    Attributes:
        code: its number.
        hits: share of its episodes that reach it, with success.
        base: the same of the base's episodes.
        steered: whether it is steered, or plays the base.
        share: of the episodes that are played with it.
        commands: whether it reaches itself in at least 0.8 of its episodes.
        reason: why it does not, a key of ``ADVICE``; empty if it does.
        chance: share of its outcome's variance that chance decides; None where nothing says so.
    """

    code: int
    hits: float
    base: float
    steered: bool
    share: float
    commands: bool
    reason: str
    chance: float | None


@dataclass(frozen=True)
class Verdict:
    """What stage 1 came to.

    Attributes:
        codes: of each code.
        success: share of the episodes that succeed, codes drawn as often as they are.
        base_success: of the base.
        entropy: of the codes among the successes, over log K.
        base_entropy: of the base.
        losses: sentences on what is worse than the base, of :func:`losses`.
        residual: whether a residual moves the chunks of codes that noise alone does not command.
    """

    codes: tuple[CodeVerdict, ...]
    success: float
    base_success: float
    entropy: float
    base_entropy: float
    losses: tuple[str, ...]
    residual: bool = False

    @property
    def commanding(self) -> int:
        """Number of codes that command."""
        return sum(code.commands for code in self.codes)

    def with_losses(self, sentences: Iterable[str]) -> Verdict:
        """Return it with further sentences on what is worse than the base, each once."""
        return replace(self, losses=tuple(dict.fromkeys([*self.losses, *sentences])))

    def __str__(self) -> str:
        """Say it in a few sentences."""
        lines = [
            f"{self.commanding} of {len(self.codes)} codes command; success {self.success:.3f} "
            f"beside the base's {self.base_success:.3f}, entropy of the codes {self.entropy:.2f} "
            f"beside {self.base_entropy:.2f}.",
            *self.losses,
        ]
        usual = sorted(code.share for code in self.codes)[len(self.codes) // 2]
        seldom = [code for code in self.codes if code.share < usual / 2]
        if seldom:
            names = ", ".join(f"{code.code} ({code.share:.2f})" for code in seldom)
            lines.append(
                f"Drawn less often, since they succeed less than the base: {names} of the episodes."
            )
        often = [code for code in self.codes if code.share > (1 + OFTEN) * usual]
        if often:
            names = ", ".join(f"{code.code} ({code.share:.2f})" for code in often)
            lines.append(
                f"Drawn more often, so that what they alone do is not lost: {names} of the "
                "episodes. LatentConditioner(num_codes) draws all equally often."
            )
        for reason, advice in (ADVICE | (MOVED if self.residual else {})).items():
            of = [code for code in self.codes if code.reason == reason]
            if of:
                names = ", ".join(f"{c.code} ({c.hits:.2f}, base {c.base:.2f})" for c in of)
                lines.append(f"Not commanded, {reason}: {names}. {advice[0].upper()}{advice[1:]}.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON gives it back, with its sentences as ``text``."""
        codes = [asdict(code) for code in self.codes]
        return asdict(self) | {"codes": codes, "losses": list(self.losses), "text": str(self)}


def verdict_of(
    table: Tensor,
    base: Tensor,
    steered: Tensor,
    probs: Tensor,
    base_episodes: int,
    episodes: int,
    figures: dict[str, float],
    base_figures: dict[str, float],
    chance: Tensor | None,
    *,
    residual: bool = False,
) -> Verdict:
    """Return the verdict on what was judged last.

    Args:
        table: share of each outcome among a code's episodes, ``[K, K + 1]``; the last is none.
        base: the same of the base, ``[K + 1]``.
        steered: which codes are steered, ``[K]`` bool.
        probs: how often each is drawn, ``[K]``.
        base_episodes: number of the base's episodes.
        episodes: number of those that the table was counted in.
        figures: success and entropy of what was judged.
        base_figures: those of the base.
        chance: of :func:`~modereg.discovery.chance.chance_shares`, or None.
        residual: whether chunks are moved already.
    """
    codes = []
    for code, row in enumerate(table):
        hits = float(row[code])
        commands = hits >= REACHED
        other = torch.cat([row[:code], row[code + 1 : -1]])
        share = None if chance is None else float(chance[code])
        reason = ""
        if not commands:
            reason = _reason(hits, other, float(base[code]) * base_episodes, share)
        made = CodeVerdict(
            code=code,
            hits=hits,
            base=float(base[code]),
            steered=bool(steered[code]),
            share=float(probs[code]),
            commands=commands,
            reason=reason,
            chance=share,
        )
        codes.append(made)
    return Verdict(
        tuple(codes),
        figures["success"],
        base_figures["success"],
        figures["entropy"],
        base_figures["entropy"],
        losses(probs @ table, base, episodes, base_episodes),
        residual,
    )


def losses(
    outcomes: Tensor,
    base: Tensor,
    episodes: int,
    base_episodes: int,
    *,
    of: str = "code",
    wanted: Tensor | None = None,
) -> tuple[str, ...]:
    """Return a sentence on each thing in which all codes together are worse than the base.

    Success counts as lower from two standard errors of the difference, and a code as lost if at
    least 0.01 of the base's successes reach it, and less of the others.

    Args:
        outcomes: share of the episodes that reach each of K codes, ``[K + 1]``; the last is none.
        base: the same of the base, ``[K + 1]``.
        episodes: number of those that they were counted in.
        base_episodes: the same of the base.
        of: what the outcomes are: ``code``, or ``mode`` where there is a label.
        wanted: which of them are missed if they are lost, ``[K]`` bool; None is all.
    """
    reached, shown = outcomes[:-1], base[:-1]
    after, before = float(reached.sum()), float(shown.sum())
    variance = sum(
        share * (1 - share) / max(number, 1)
        for share, number in ((after, episodes), (before, base_episodes))
    )
    found = []
    if after < before - SIGNIFICANT * max(variance, 0.0) ** 0.5:
        found.append(f"Worse than the base: success {after:.3f} instead of {before:.3f}.")
    lost = (shown >= PRESENT * before) & (reached < PRESENT * after) & (shown > 0)
    lost = lost if wanted is None else lost & wanted
    if bool(lost.any()):
        names = ", ".join(map(str, lost.nonzero()[:, 0].tolist()))
        found.append(
            f"Worse than the base: less than {PRESENT:.0%} of the successes are left of {of} "
            f"{names}. Draw the codes that show it more often: CategoricalPrior(probs) weighs them."
        )
    return tuple(found)


def _reason(hits: float, other: Tensor, reached: float, chance: float | None) -> str:
    """Return why a code does not command: the first that applies."""
    if hits >= NEARLY:
        return "nearly"
    if reached < FEW:
        return "few episodes"
    if chance is not None and chance > MOSTLY:
        return "chance"
    if len(other) and float(other.max()) > max(hits, 1 - REACHED):
        return "feature"
    return "noise"
