"""What modereg itself costs a decision, and how that grows: time, memory, and their slopes.

    python benchmarks/step_cost.py --json benchmarks/results/step_cost.json

A batch of whole episodes is collected with a steering policy, and the intrinsic reward is read on
it (``difference``, the dearer timing). The environment (``CountingEnv``) and the decoder (one
matrix) cost next to nothing, so that what grows is modereg's own. One thing grows at a time; the
others are 256 environments, 16 codes, 8 x 2 numbers of noise and 8 decisions of 4 steps.

Rows: what (``codes``, ``environments``, ``noise``, ``decisions``), value, microseconds (CPU time a
decision of one environment, the least of several rounds), bytes (of the batch, a decision),
history (share of them that is the history, here and in ``next``). Slopes: of the logarithms of
microseconds, and of bytes, over the last half of the values: 0 costs nothing more a decision,
1 grows as what grows, and a batch has as many decisions besides.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.results import write_results
from tensordict import TensorDictBase

from modereg import keys
from modereg.estimators import CategoricalMI
from modereg.layout import Layout
from modereg.policies import freeze
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import MIReward
from modereg.wrapping import make_steering, observation_size, steer_env

EXECUTE = 4
USUAL = {"codes": 16, "environments": 256, "noise": 16, "decisions": 8}
VALUES = {
    "codes": (4, 8, 16, 32, 64, 128, 256),
    "environments": (64, 256, 1024, 4096, 8192),
    "noise": (8, 32, 128, 512, 2048),
    "decisions": (8, 16, 32, 64, 125, 300),
}


def measure(codes: int, environments: int, noise: int, decisions: int, rounds: int) -> Any:
    """Return microseconds and bytes a decision, and the share of the history."""
    torch.manual_seed(0)
    steps = decisions * EXECUTE
    env = CountingEnv((steps,) * environments, action_dim=2)
    horizon = max(noise // 2, EXECUTE)
    policy = freeze(TinyPolicy(3, (horizon, 2), (max(noise // 2, 1), 2)))
    layout = Layout(steps, execute=EXECUTE, horizon=horizon)
    steered = steer_env(env, policy, codes, layout)
    steering = make_steering(steered, policy, codes)
    estimator = CategoricalMI(observation_size(steered, [keys.HISTORY]), codes)
    reward = MIReward(estimator, steered.layout, timing="difference")
    spent = []
    for _ in range(rounds + 1):
        began = time.process_time()
        with torch.no_grad():
            batch = reward(steered.rollout(decisions, steering, break_when_any_done=False))
        spent.append(time.process_time() - began)
    number = batch.numel()
    held = sum(_bytes(batch, key) for key in batch.keys(True, True))
    history = sum(_bytes(batch, key) for key in (keys.HISTORY, ("next", keys.HISTORY)))
    return {
        "microseconds": round(1e6 * min(spent[1:]) / number, 3),
        "bytes": round(held / number),
        "history": round(history / held, 3),
    }


def _bytes(batch: TensorDictBase, key: Any) -> int:
    value = batch.get(key)
    return value.numel() * value.element_size()


def slope(rows: list[dict[str, Any]], name: str) -> float:
    """Return the slope of logarithms over the last half of the values."""
    last = rows[len(rows) // 2 :]
    values = np.log([[row["value"], row[name]] for row in last])
    return round(float(np.polyfit(values[:, 0], values[:, 1], 1)[0]), 2)


def main() -> None:
    """Measure one thing after another, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--what", nargs="+", choices=VALUES, default=list(VALUES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="two values each, one round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    slopes = {}
    for what in args.what:
        mine = []
        for value in VALUES[what][: 2 if args.smoke else None]:
            found = measure(**(USUAL | {what: value}), rounds=1 if args.smoke else args.rounds)
            mine.append({"what": what, "value": value} | found)
            print(mine[-1], flush=True)
        rows += mine
        slopes[what] = {name: slope(mine, name) for name in ("microseconds", "bytes")}
    print(slopes)
    write_results(args.json, "What modereg costs a decision", {"slopes": slopes, "rows": rows})


if __name__ == "__main__":
    main()
