"""What ``modereg inspect`` says of a base policy in words: its advice, and a short table."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["advise", "table"]

STEERABLE, PARTLY = 0.5, 0.1
"""Shares of what there is to decide from which a base is steerable, or partly so."""

MOSTLY_CLIPPED = 0.5
"""Share of clipped action components above which something is wrong with the decoded actions."""


def advise(result: dict[str, Any]) -> str:
    """Say whether a base is steerable through its noise, and how many codes to try.

    There is no more to decide than log M nats, nor more than the log of the number of behaviours.
    What the noise decides is read at the coarsest smoothing, and set beside the lesser of the two.

    Args:
        result: of :func:`~modereg.recipes.inspect_base.inspect_base`.
    """
    warnings = _warnings(result["sampled"]) + _unplayed(result["layout"])
    return " ".join([_steerability(result), *warnings])


def _warnings(sampled: dict[str, Any]) -> list[str]:
    """Say what else would keep fine-tuning from working."""
    found, clipped = [], sampled.get("clipped_share")
    if clipped is not None and clipped > MOSTLY_CLIPPED:
        found.append(
            f"But {100 * clipped:.0f} % of the action components had to be clipped: look at the "
            "units of the actions, their normalisation, and the scheduler's steps."
        )
    if sampled["success"] == 0:
        found.append(
            "But no episode succeeded: discovery imitates successes, and fine-tuning needs some."
        )
    return found


def _unplayed(layout: dict[str, Any]) -> list[str]:
    """Say what of the layout is often forgotten."""
    found, steps = [], layout.get("observation_steps", 1)
    if steps > 1 and layout["offset"] == 0:
        found.append(
            f"The policy reads {steps} observations, and the first action of a chunk is played "
            "first: if its chunks begin at the oldest observation, as Diffusion Policy's do, give "
            f"--task.offset {steps - 1}."
        )
    rest = layout["horizon"] - layout["offset"] - layout["executed"]
    if rest > layout["executed"]:
        found.append(
            f"Of {layout['horizon']} actions {layout['executed']} are played before the next "
            "decision: noise steers more with a larger --task.execute."
        )
    return found


def _steerability(result: dict[str, Any]) -> str:
    found, noise = behaviours(result["spread"]), result["noise"]
    coarsest = max(noise["information"], key=lambda row: row["smoothing"])
    decided = coarsest["nats"]
    told_apart = f"held noises decide {decided:z.2f} of at most {noise['limit']:.2f} nats"
    share = decided / min(noise["limit"], math.log(max(found, 2)))
    codes = max(2, 2 * found)
    if share < PARTLY:
        return (
            f"Hardly steerable: {told_apart}; look whether the policy reads its noise, and whether "
            "its observations already decide the behaviour; more held_episodes may tell more."
        )
    if found < 2:
        return (
            f"Steerable, but with one behaviour to keep: {told_apart}; plain fine-tuning loses "
            "nothing here."
        )
    if share < STEERABLE:
        return (
            f"Partly steerable: {told_apart} beside {found} behaviours; try {codes} codes, and "
            "noise that changes from decision to decision, as discover finds it."
        )
    return f"Steerable: {told_apart} beside {found} behaviours; try {codes} codes."


def behaviours(spread: dict[str, Any]) -> int:
    """Return how many behaviours were seen: modes with a label, clusters without one."""
    return int(spread["present_modes"] if "present_modes" in spread else spread["clusters"])


def table(result: dict[str, Any]) -> str:
    """Lay the result out in a few lines, the advice last."""
    layout = result["layout"]
    observed = ", ".join(f"{key} {shape}" for key, shape in layout["observations"].items())
    rows = {
        "base": f"{result['base']} on {result['task']}",
        "chunk": f"{layout['horizon']} actions of {layout['action_dims']} dimensions, "
        f"{layout['executed']} played from {layout['offset']} on",
        "reads": observed or "nothing",
        "noise": f"{layout['noise_shape']}, deterministic: {_yes(result['deterministic'])}",
    }
    if result["deterministic"]:
        rows |= _figures(result)
    lines = [f"{name:<12}{text}" for name, text in rows.items()]
    return "\n".join([*lines, "", result["advice"]])


def _figures(result: dict[str, Any]) -> dict[str, str]:
    sampled, noise = result["sampled"], result["noise"]
    figures = {"return": f"{sampled['mean_return']:z.3f}"}
    if sampled["success"] is not None:
        figures["success"] = f"{sampled['success']:.3f} +- {sampled['success_error']:.3f}"
    figures["behaviours"] = _spread(result["spread"])
    parts = [f"{row['nats']:z.2f} at {row['smoothing']:g}" for row in noise["information"]]
    figures["decided"] = (
        f"{', '.join(parts)} of the scale; at most {noise['limit']:.2f} nats, of "
        f"{noise['noises']} held noises"
    )
    if noise["commandable_modes"] is not None:
        figures["commanded"] = f"{noise['commandable_modes']} modes by a held noise"
    return figures


def _spread(spread: dict[str, Any]) -> str:
    if "present_modes" in spread:
        return (
            f"{spread['present_modes']} of {spread['num_modes']} modes, entropy "
            f"{spread['entropy']:z.3f}"
        )
    if spread["silhouette"] is None:
        return "1, all episodes being alike"
    if spread["clusters"] == 1:
        return (
            f"1: a silhouette of {spread['silhouette']:z.2f} at most, as one bundle of episodes has"
        )
    return f"{spread['clusters']} clusters, silhouette {spread['silhouette']:z.2f}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
