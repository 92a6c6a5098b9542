r"""How a fine-tuned policy is judged: its success, always beside what became of its modes.

Definitions, which every recipe and benchmark shares:

- *Success* is the share of episodes that solved the task; SR_M is the mean of the per-mode rates.
- *Per-mode success*: successes over the episodes attributed to that mode. A failed episode is
  attributed once its label is decided, else it counts as undecided.
- A mode is *present* if it has at least 1 % of the successful episodes.
- A mode m is *commandable* if some code z has P(success and mode m | z) >= 0.8, and more hits
  than luck brings to one of K codes: were that probability one half, so many or more would be seen
  less often than .05 / K. It takes 6 hits of 6 with two codes and 10 of 10 with 48; from about 30
  episodes a code on the 0.8 decide.
- *Behaviour entropy*: H = - sum p log p / log M over the modes of successful episodes (D3IL,
  arXiv 2402.14606). The plug-in estimate is biased down by about (M - 1) / 2N nats.

Where a mode m is *blocked*, every episode in it fails, and P(success and mode m | z) is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

from modereg import functional
from modereg.errors import ConfigurationError, ShapeError
from modereg.information import kozachenko_leonenko_entropy

__all__ = [
    "COMMANDABLE",
    "PRESENT",
    "BehaviourMetrics",
    "action_entropy",
    "behaviour_metrics",
    "best_of_codes",
    "blocked_success",
    "mean_interval",
    "partition_agreement",
    "replanned_success",
    "success_table",
]

PRESENT = 0.01
"""Share of the successful episodes from which a mode counts as present."""

FEWEST_RUNS = 5
"""Runs from which on an interval is given; fewer say little more than where they lie."""

COMMANDABLE = 0.8
"""Probability of success in a mode, given some code, from which it counts as commandable."""

LUCK = 0.05
"""Probability with which luck may make any of the K codes command a mode."""


@dataclass(frozen=True)
class BehaviourMetrics:
    """What :func:`behaviour_metrics` returns; figures that need a mode label are None without one.

    Attributes:
        episodes: number of episodes.
        mean_return: mean undiscounted return of the environment's reward.
        success: share of successes; None where the environment does not say what success is.
        success_error: its standard error.
        per_code_success: success given each code, NaN where a code was never drawn, K entries.
        per_code_return: mean return given each code, K entries.
        code_shares: share of the episodes of each code.
        effective_codes: exp I(z; z') of the commanded code z and the code z' that the discoverer
            reads off the episode: how many behaviours can be told apart. The information is
            corrected for chance (:func:`~modereg.functional.adjusted_information`): 1 for a
            discoverer that guesses, K for one that is always right. None without a discoverer.
        entropy: behaviour entropy in [0, 1].
        present_modes: number of present modes.
        commandable_modes: number of commandable modes.
        mean_mode_success: SR_M, over modes with an episode.
        mastered_modes: modes with a per-mode success of at least 0.8 ("mc@0.8" in BMD).
        per_mode_success: NaN where no episode is attributed to the mode.
        mode_shares: shares among the successes.
        undecided: share of all episodes whose label was never decided.
        code_mode_nmi: normalised mutual information of code and mode over successes, corrected for
            chance (:func:`~modereg.functional.adjusted_mutual_information`).
        code_mode_table: successes of each code in each mode, ``[K][M]`` counts.
        code_table: successes of each code that the discoverer reads as each code, ``[K][K]``
            counts. None without a discoverer.
    """

    episodes: int
    mean_return: float
    per_code_return: list[float]
    code_shares: list[float]
    success: float | None = None
    success_error: float | None = None
    per_code_success: list[float] | None = None
    effective_codes: float | None = None
    entropy: float | None = None
    present_modes: int | None = None
    commandable_modes: int | None = None
    mean_mode_success: float | None = None
    mastered_modes: int | None = None
    per_mode_success: list[float] | None = None
    mode_shares: list[float] | None = None
    undecided: float | None = None
    code_mode_nmi: float | None = None
    code_mode_table: list[list[int]] | None = None
    code_table: list[list[int]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; NaN becomes None."""
        return {key: _jsonable(value) for key, value in asdict(self).items()}

    def sentence(self) -> str:
        """Return a line for logs: success and, with a label, the modes beside it."""
        text = f"return {self.mean_return:z.3f}"
        if self.success is not None:
            text = f"success {self.success:.3f} +- {self.success_error:.3f}"
        if self.present_modes is None:
            codes = "" if self.effective_codes is None else f", codes {self.effective_codes:.1f}"
            return text + codes
        return (
            f"{text}, entropy {self.entropy:z.3f}, modes present {self.present_modes}, "
            f"commandable {self.commandable_modes}, undecided {self.undecided:.3f}"
        )


def behaviour_metrics(
    success: Tensor | None,
    codes: Tensor,
    num_codes: int,
    *,
    returns: Tensor,
    modes: Tensor | None = None,
    num_modes: int | None = None,
    predicted_codes: Tensor | None = None,
) -> BehaviourMetrics:
    """Judge a set of episodes; the module's docstring defines every figure.

    Args:
        success: ``[N]`` bool; None where the environment does not say, and then the figures of
            modes count every episode.
        codes: the code of each episode, ``[N]`` int64 in ``[0, num_codes)``.
        num_codes: K.
        returns: undiscounted return of each episode, ``[N]``.
        modes: label of each episode, ``[N]`` int64, -1 while undecided; None without a label.
        num_modes: M, needed with ``modes``.
        predicted_codes: the code that the discoverer reads off each episode, ``[N]`` int64.

    Raises:
        ShapeError: if the entries disagree on N, or there is no episode.
    """
    given = [
        value for value in (codes, returns, success, modes, predicted_codes) if value is not None
    ]
    if codes.ndim != 1 or not len(codes) or any(value.shape != codes.shape for value in given):
        raise ShapeError(
            "expected codes, returns, success and labels of one shape [N] with N > 0, got "
            f"{[tuple(value.shape) for value in given]}"
        )
    counts = torch.bincount(codes, minlength=num_codes).double()
    totals = torch.bincount(codes, weights=returns.double(), minlength=num_codes)
    figures: dict[str, Any] = dict(
        episodes=len(codes),
        mean_return=float(returns.double().mean()),
        per_code_return=(totals / counts).tolist(),
        code_shares=(counts / len(codes)).tolist(),
    )
    if success is not None:
        figures |= _success_figures(success, codes, counts)
    solved = torch.ones_like(codes, dtype=torch.bool) if success is None else success
    if predicted_codes is not None:
        table = functional.contingency(codes, predicted_codes, num_codes, num_codes)
        figures["effective_codes"] = float(functional.adjusted_information(table).exp())
        read = predicted_codes[solved]
        table = functional.contingency(codes[solved], read, num_codes, num_codes)
        figures["code_table"] = table.tolist()
    if modes is not None and num_modes is not None:
        figures |= _mode_figures(solved, codes, counts, modes, num_modes)
    return BehaviourMetrics(**figures)


def _success_figures(success: Tensor, codes: Tensor, counts: Tensor) -> dict[str, Any]:
    rate = float(success.double().mean())
    solved = torch.bincount(codes[success], minlength=len(counts)).double()
    return dict(
        success=rate,
        success_error=(rate * (1 - rate) / len(success)) ** 0.5,
        per_code_success=(solved / counts).tolist(),
    )


def _mode_figures(
    success: Tensor, codes: Tensor, counts: Tensor, modes: Tensor, num_modes: int
) -> dict[str, Any]:
    decided, num_codes = modes >= 0, len(counts)
    labelled = success & decided
    attributed = torch.bincount(modes[decided], minlength=num_modes).double()
    table = functional.contingency(codes[labelled], modes[labelled], num_codes, num_modes)
    solved = table.sum(0).double()
    shares = solved / solved.sum().clamp_min(1)
    per_mode = solved / attributed
    return dict(
        entropy=float(functional.normalized_entropy(solved, num_modes)),
        present_modes=int((shares >= PRESENT).sum()),
        commandable_modes=_count_commandable(table, counts),
        mean_mode_success=float(per_mode[attributed > 0].mean()) if decided.any() else 0.0,
        mastered_modes=int((per_mode >= COMMANDABLE).sum()),
        per_mode_success=per_mode.tolist(),
        mode_shares=shares.tolist(),
        undecided=float((~decided).double().mean()),
        code_mode_nmi=float(functional.adjusted_mutual_information(table)),
        code_mode_table=table.tolist(),
    )


def _count_commandable(table: Tensor, counts: Tensor) -> int:
    r"""Count the modes of a table of successes ``[K, M]``, beside all episodes of each code.

    The tail of a binomial, :math:`P(X \ge h)` of n at one half, is :math:`I_{1/2}(h, n - h + 1)`.
    """
    hits, tried = table.double().cpu(), counts[:, None].cpu()
    misses = (tried - hits).clamp_min(0)
    luck = torch.from_numpy(betainc(hits.clamp_min(1).numpy(), misses.numpy() + 1, 0.5))
    commands = (hits / tried.clamp_min(1) >= COMMANDABLE) & (luck <= LUCK / len(table))
    return int(commands.any(0).sum())


def success_table(figures: Mapping[str, Any], *, by: str = "mode") -> Tensor:
    """Return P(success and mode | code), ``[K, M]`` float64; zeros for a code never drawn.

    Args:
        figures: a :class:`BehaviourMetrics` as dictionary.
        by: ``"mode"``, or ``"code"``: then the columns are codes that the discoverer reads.

    Raises:
        ConfigurationError: if the figures have no such table.
    """
    name = {"mode": "code_mode_table", "code": "code_table"}[by]
    if figures.get(name) is None:
        raise ConfigurationError(
            f"expected figures with {name}, got some without; judge the run again with a "
            + ("label of modes" if by == "mode" else "discoverer")
        )
    shares = torch.tensor(figures["code_shares"], dtype=torch.float64)
    counts = shares.new_tensor(figures[name])
    return counts / (shares * figures["episodes"]).clamp_min(1.0)[:, None]


def blocked_success(table: Tensor) -> Tensor:
    r"""Return the success of each code where each mode is blocked, :math:`\sum_{m' \ne m} T_{zm'}`.

    Args:
        table: P(success and mode | code), ``[K, M]``.

    Returns:
        ``[M, K]``.
    """
    return (table.sum(-1, keepdim=True) - table).mT


def best_of_codes(success: Tensor, tries: int) -> Tensor:
    r"""Return the success of the best of n different codes, drawn at random: pass@n over codes.

    :math:`1 - \binom{K}{n}^{-1} \sum_{|Z| = n} \prod_{z \in Z} (1 - s_z)`. Where a code always
    succeeds or never does, it is the pass@k of Chen et al. (2021, arXiv 2107.03374), Eq. 1.

    Args:
        success: of each code, ``[*B, K]``, independent of each other's.
        tries: n, at most K.

    Returns:
        ``[*B]``.

    Raises:
        ConfigurationError: if there are fewer codes than tries, or no try.
    """
    num_codes = success.shape[-1]
    if not 1 <= tries <= num_codes:
        raise ConfigurationError(f"expected 1 to {num_codes} tries of as many codes, got {tries}")
    sums = [torch.ones_like(success[..., 0])]  # elementary symmetric polynomials of the failures
    sums += [torch.zeros_like(sums[0])] * tries
    for failure in (1.0 - success).unbind(-1):
        sums = [sums[0], *(sums[n] + failure * sums[n - 1] for n in range(1, tries + 1))]
    return 1.0 - sums[tries] / math.comb(num_codes, tries)


def replanned_success(table: Tensor, tries: int = 3) -> Tensor:
    r"""Return the success within some tries where each mode is blocked, by greedy replanning.

    Which mode is blocked is not known; each is as likely. Before each try the code is chosen that
    succeeds most often by what the failed ones say,
    :math:`\arg\max_z \sum_m P(m \mid \text{all failed}) \sum_{m' \ne m} T_{zm'}`. Tries are
    independent given code and blocked mode. With one code it is a policy that tries again.

    Args:
        table: P(success and mode | code), ``[K, M]``.
        tries: at most so many an episode.

    Returns:
        ``[M]``, of each mode that is blocked.
    """
    success = blocked_success(table)
    failed = torch.ones_like(success[:, 0])  # P(all failed | m), in proportion to P(m | all failed)
    for _ in range(tries):
        failed = failed * (1.0 - success[:, (failed @ success).argmax()])
    return 1.0 - failed


def action_entropy(chunks: Tensor, *, k: int = 3) -> float:
    """Return the mean entropy of what a policy plays in a state, by nearest neighbours.

    LP-DS (arXiv 2606.01151) measures by it how far a policy has narrowed. Its differences count,
    beside the base's at the same states: of many dimensions the estimate is biased, and it is small
    where chunks lie near a surface. Behaviours it does not count: two narrow ones have less of it
    than a broad one. See :func:`~modereg.information.kozachenko_leonenko_entropy`.

    Args:
        chunks: what is played in draw n at state s, ``[S, N, ...]``, N above k.
        k: number of neighbours.

    Returns:
        Nats; negative for narrow policies.

    Raises:
        ShapeError: if there is no state, or no draw.
        NonFiniteError: if a chunk is not finite.
        ConfigurationError: if there are at most k draws, or more than k equal ones, as those of a
            policy that is deterministic or clipped.
    """
    if chunks.ndim < 3 or not chunks.numel():
        raise ShapeError(f"expected chunks [S, N, ...], got shape {tuple(chunks.shape)}")
    found = [kozachenko_leonenko_entropy(draws, k=k) for draws in chunks.flatten(2)]
    return sum(found) / len(found)


def partition_agreement(first: Tensor, second: Tensor) -> dict[str, float]:
    """Return how far two partitions of the same episodes agree, whatever their labels are called.

    Args:
        first: a label of each episode, ``[N]`` int64, N at least 2.
        second: another, ``[N]`` int64.

    Returns:
        ``nmi``, :func:`~modereg.functional.normalized_mutual_information`, and ``ari``,
        :func:`~modereg.functional.adjusted_rand_index`.

    Raises:
        ShapeError: if they are not of one shape ``[N]``.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ShapeError(
            "expected two labels of each of N > 1 episodes, got shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    first, second = (label.unique(return_inverse=True)[1] for label in (first, second))
    table = functional.contingency(first, second, int(first.max()) + 1, int(second.max()) + 1)
    return {
        "nmi": float(functional.normalized_mutual_information(table)),
        "ari": float(functional.adjusted_rand_index(table)),
    }


def mean_interval(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95
) -> tuple[float, float] | None:
    r"""Return Student's interval of a mean over runs, :math:`\bar x \pm t_{n-1} s / \sqrt n`.

    Args:
        values: a figure of each run, ``[n]``.
        confidence: coverage of the interval, exact where runs are normally distributed.

    Returns:
        Its ends; None for fewer than five runs, of which the points themselves say more.
    """
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    if len(values) < FEWEST_RUNS:
        return None
    quantile = t.ppf((1 + confidence) / 2, len(values) - 1)
    margin = float(quantile * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()) - margin, float(values.mean()) + margin


def _jsonable(value: Any) -> Any:
    if isinstance(value, list):
        return [_jsonable(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
