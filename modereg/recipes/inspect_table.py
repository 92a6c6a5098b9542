"""What ``modereg inspect`` says of a base policy in words: its advice, and a short table."""

from __future__ import annotations

from typing import Any

from modereg.discovery.verdict import FEW, NEARLY

__all__ = ["advise", "table"]

LISTED = 12
"""Behaviours that the table lists one by one; of more it lists those that noise cannot command."""

MOSTLY_CLIPPED = 0.5
"""Share of clipped action components above which something is wrong with the decoded actions."""


def advise(result: dict[str, Any]) -> str:
    """Say which behaviours noise can command, and what to do about the others.

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
            "But no episode succeeded: discovery learns from successes, and fine-tuning needs some."
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
    if result["reach"] is None:
        return (
            "One behaviour: there is nothing to choose between, and plain fine-tuning loses "
            "nothing; name --task.feature-keys that tell behaviours apart if you know of several."
        )
    codes = result["reach"]["codes"]
    beyond = [code for code in codes if not _commandable(code)]
    if not beyond:
        return f"Steerable: noise can command all {len(codes)} behaviours."
    able = len(codes) - len(beyond)
    opening = "Partly steerable" if able else "Hardly steerable"
    sentences = [
        f"{opening}: noise can command {able or 'none'} of {len(codes)} behaviours. For the "
        f"{'other ' if able else ''}{len(beyond)} the best of {result['reach']['draws']} noises "
        f"raises the chance from {_mean(beyond, 'share'):.2f} to about "
        f"{_mean(beyond, 'reach'):.2f}: chance or the start decides them, or the policy hardly has "
        "them. More demonstrations of them, a residual on the chunk or fine-tuned weights can "
        "help; noise alone cannot."
    ]
    rare = sum(code["share"] * result["sampled"]["episodes"] < FEW for code in beyond)
    if rare:
        sentences.append(
            f"Of these {rare} were seen in fewer than {FEW} episodes: more --episodes tell more."
        )
    return " ".join(sentences)


def _commandable(code: dict[str, Any]) -> bool:
    return code["reach"] >= NEARLY


def _mean(codes: list[dict[str, Any]], name: str) -> float:
    return sum(code[name] for code in codes) / len(codes)


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
        seen = layout["features"]
        rows["feature"] = f"{', '.join(seen['keys'])}, dimensions {_span(seen['dims'])}"
        rows |= _figures(result)
    lines = [f"{name:<12}{text}" for name, text in rows.items()]
    return "\n".join([*lines, "", result["advice"]])


def _figures(result: dict[str, Any]) -> dict[str, str]:
    sampled = result["sampled"]
    figures = {"return": f"{sampled['mean_return']:z.3f}"}
    if sampled["success"] is not None:
        figures["success"] = f"{sampled['success']:.3f} +- {sampled['success_error']:.3f}"
    figures["behaviours"] = _spread(result["spread"])
    if result["reach"] is not None:
        figures |= _reach(result["reach"])
    figures["cost"] = f"{result['env_steps']} environment steps of {sampled['episodes']} episodes"
    return figures


def _reach(reach: dict[str, Any]) -> dict[str, str]:
    """Return a line for each behaviour, those that most episodes show first."""
    codes = sorted(reach["codes"], key=lambda code: -code["share"])
    listed = codes if len(codes) <= LISTED else [code for code in codes if not _commandable(code)]
    rows = {
        "outcomes": f"of {reach['class_share_nll']:.2f} nats {reach['outcome_nll']:.2f} are open "
        "once a chunk is known",
        "reach": f"chance under the base, and by the best of {reach['draws']} noises",
    }
    for code in listed:
        rows[f"  {code['code']}"] = (
            f"{code['share']:.2f} -> {code['reach']:.2f} +- {code['error']:.2f}"
        )
    if len(listed) < len(codes):
        rest = [code for code in codes if _commandable(code)]
        means = f"{_mean(rest, 'share'):.2f} -> {_mean(rest, 'reach'):.2f}"
        rows["  others"] = f"{means}, the mean of {len(rest)}"
    return rows


def _spread(spread: dict[str, Any]) -> str:
    if spread["silhouette"] is None:
        clusters = "1, all episodes being alike"
    elif spread["clusters"] == 1:
        clusters = "1: nothing tells the episodes from one bundle"
    else:
        clusters = f"{spread['clusters']} clusters, silhouette {spread['silhouette']:z.2f}"
    if "present_modes" not in spread:
        return clusters
    return (
        f"{clusters}; {spread['present_modes']} of {spread['num_modes']} modes, entropy "
        f"{spread['entropy']:z.3f}"
    )


def _span(dims: list[int]) -> str:
    """Return dimensions as they are named, as a range where they are one."""
    if len(dims) > 2 and dims == list(range(dims[0], dims[-1] + 1)):
        return f"{dims[0]} to {dims[-1]}"
    return ", ".join(map(str, dims))


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
