"""How fast ManiSkill steps on one core: stock, wrapped, and wrapped with the fast path.

    python benchmarks/maniskill_speed.py --json benchmarks/results/maniskill_speed.json

Rows: task; num_envs, environments in this process; stock, wrapped and fast, environment steps per
CPU second of what ``gymnasium.make`` returns, of a ``ManiSkillEnv`` and of one with ``fast=True``;
wrapped_by_stock and fast_by_stock, medians of the ratios within a round. In each round all three
play the same random actions for ``--steps`` steps, in turns; resets are not timed. Stock is one
environment: several would share nothing but their process.

equality: episodes that the wrapped environment and the fast one play in step, actions of random
walks and of a scripted expert with noise in turns: their steps, the largest difference of any
observation, and the steps with another reward, success or mode. grasped, succeeded and modes say
what the episodes came to see. images_per_second: ``render_frames`` at 128 x 128, per CPU second,
after the first picture of the process, whose seconds are first_image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from support.results import write_results
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from modereg_integrations.maniskill import ManiSkillEnv
from modereg_integrations.maniskill.scripted import Stage, StagedPlan
from modereg_integrations.maniskill.tabletop import TASKS as OURS

CONTROL_MODE = "pd_ee_delta_pos"
EPISODE = 50
Policy = Callable[[Tensor], Tensor]  # observation [O] to action [A]


def stages(start: tuple[float, ...], end: tuple[float, ...]) -> list[Stage]:
    """Pick what is at one place, bring it to another and let go of it there."""
    (x, y, z), goal = start, (end[0], end[1], end[2] + 0.01)
    above = (end[0], end[1], max(end[2], 0.1) + 0.05)
    pick = [Stage((x, y, 0.1), True, 0.03), Stage((x, y, z), True, 0.008)]
    hold = [Stage((x, y, z), False, 1.0, 3), Stage((x, y, 0.15), False, 0.05)]
    return [*pick, *hold, Stage(above, False, 0.04), Stage(goal, False, 0.02, 8)]


def pick_cube(observation: Tensor, episode: int) -> Policy:
    """Brings the cube to its goal."""
    del episode
    goal, cube = observation[26:29].tolist(), observation[29:32].tolist()
    plan = StagedPlan([*stages(cube, goal)], full_speed=1.0)
    return lambda seen: plan(seen[19:22])


def stack_cube(observation: Tensor, episode: int) -> Policy:
    """Puts one cube on the other."""
    del episode
    first, second = observation[25:28].tolist(), observation[32:35].tolist()
    place = (second[0], second[1], second[2] + 0.04)
    release = Stage((*place[:2], place[2] + 0.08), True, 0.0)
    plan = StagedPlan([*stages(first, place), release], full_speed=1.0)
    return lambda seen: plan(seen[18:21])


def pass_wall(observation: Tensor, episode: int) -> Policy:
    """Brings the cube past the wall, mode after mode."""
    start = TensorDict({"cube_position": observation[None, 4:7]}, [1])
    expert = OURS["ModeregWall-v1"].expert(episode // 2 % 3, start)
    return lambda seen: expert(TensorDict({"observation": seen[None]}, [1]))


TASKS: dict[str, Callable[[Tensor, int], Policy]] = {
    "PickCube-v1": pick_cube,
    "StackCube-v1": stack_cube,
    "ModeregWall-v1": pass_wall,
}


def make(task: str, num_envs: int, *, fast: bool, **options: Any) -> ManiSkillEnv:
    """A wrapped environment without a time limit."""
    given = {"control_mode": CONTROL_MODE, "max_steps": None, "seed": 0}
    return ManiSkillEnv(task, num_envs, fast=fast, **given, **options)


def seconds_stock(env: Any, actions: Tensor, seed: int) -> float:
    """CPU seconds of an environment step of stock ManiSkill."""
    env.reset(seed=seed)
    start = time.process_time()
    for action in actions:
        env.step(action[:1])
    return (time.process_time() - start) / len(actions)


def seconds_wrapped(env: ManiSkillEnv, actions: Tensor, seed: int) -> float:
    """CPU seconds of an environment step, of all rows' steps divided by their number."""
    env.set_seed(seed)
    td = env.reset()
    start = time.process_time()
    for action in actions:
        td = env.step(td.set("action", action))["next"]
    return (time.process_time() - start) / len(actions) / actions.shape[1]


def measure(task: str, num_envs: int, steps: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    stock = gymnasium.make(task, num_envs=1, obs_mode="state", control_mode=CONTROL_MODE)
    envs = [make(task, num_envs, fast=fast) for fast in (False, True)]
    ways = [partial(seconds_stock, stock), *(partial(seconds_wrapped, env) for env in envs)]
    taken: list[list[float]] = []
    for turn in range(rounds + 1):  # the first one warms up
        generator = torch.Generator().manual_seed(turn)
        actions = 2 * torch.rand(steps, num_envs, 4, generator=generator) - 1
        order = [(turn + place) % 3 for place in range(3)]
        seconds = {way: ways[way](actions, turn) for way in order}
        taken.append([seconds[way] for way in range(3)])
    stock.close()
    for env in envs:
        env.close()
    rates = [round(statistics.median(1 / row[way] for row in taken[1:])) for way in range(3)]
    ratios = [statistics.median(row[0] / row[way] for row in taken[1:]) for way in (1, 2)]
    names = ("stock", "wrapped", "fast", "wrapped_by_stock", "fast_by_stock")
    return {"task": task, "num_envs": num_envs, **dict(zip(names, [*rates, *ratios]))}


def noisy(policy: Policy, generator: torch.Generator) -> Policy:
    """A policy with noise on its actions."""
    return lambda seen: policy(seen) + 0.1 * torch.randn(4, generator=generator)


def random_walk(generator: torch.Generator) -> Policy:
    """Actions that drift, so that the arm comes far and hits things."""
    walk = torch.zeros(4)

    def policy(_: Tensor) -> Tensor:
        walk.add_(0.4 * torch.randn(4, generator=generator)).clamp_(-1.5, 1.5)
        return walk.clone()

    return policy


def compare(task: str, episodes: int) -> dict[str, Any]:
    """The wrapped environment and the fast one side by side."""
    keys = ("is_grasped",) if task == "PickCube-v1" else ()
    envs = [make(task, 1, fast=fast, info_keys=keys) for fast in (False, True)]
    generator = torch.Generator().manual_seed(0)
    found: Counter[str] = Counter()
    modes: set[int] = set()
    worst = 0.0
    for episode in range(episodes):
        seen = [env.reset() for env in envs]
        worst = max(worst, difference(*seen))
        scripted = noisy(TASKS[task](seen[0]["observation"][0], episode), generator)
        policy = scripted if episode % 2 == 0 else random_walk(generator)
        for _ in range(EPISODE):
            action = policy(seen[0]["observation"][0]).unsqueeze(0)
            seen = [
                env.step(td.copy().set("action", action))["next"] for env, td in zip(envs, seen)
            ]
            worst = max(worst, difference(*seen))
            found["steps"] += 1
            found["another_outcome"] += another_outcome(*seen)
            found["grasped"] += bool(seen[1].get("is_grasped", torch.zeros(1)))
            if seen[0]["done"].all():
                break
        found["succeeded"] += bool(seen[1]["success"])
        modes.add(int(seen[1].get("mode", torch.tensor(-1))))
    for env in envs:
        env.close()
    return {"episodes": episodes, "largest_difference": worst, **found, "modes": sorted(modes)}


def difference(first: TensorDictBase, second: TensorDictBase) -> float:
    """Largest absolute difference of the observations."""
    return float((first["observation"] - second["observation"]).abs().max())


def another_outcome(first: TensorDictBase, second: TensorDictBase) -> bool:
    """Whether reward, ends, success or mode differ."""
    keys = set(first.keys()) - {"observation"}
    return any(not torch.equal(first[key], second[key]) for key in keys)


def pictures(task: str, frames: int) -> dict[str, float]:
    """CPU seconds of the first picture, and pictures a second after it."""
    env = make(task, 1, fast=True, render_size=(128, 128))
    env.reset()
    moments = [time.process_time()]
    for _ in range(frames + 1):
        env.render_frames()
        moments.append(time.process_time())
    env.close()
    rate = frames / (moments[-1] - moments[1])
    return {"first_image": round(moments[1] - moments[0], 2), "images_per_second": round(rate, 1)}


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=25, help="of a timed piece")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=102, help="for equality, of all tasks")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    args = parser.parse_args()
    if args.smoke:
        args.tasks, args.num_envs, args.steps, args.rounds = ["ModeregWall-v1"], [1], 3, 1
        args.episodes = 1
    torch.set_num_threads(1)
    share = -(-args.episodes // len(args.tasks))
    result: dict[str, Any] = {}
    for task in args.tasks:
        result[f"equality_{task}"] = compare(task, share)
        print(task, result[f"equality_{task}"], flush=True)
    result |= pictures("ModeregWall-v1", 2 if args.smoke else 30)
    result["rows"] = []
    for task in args.tasks:
        for num_envs in args.num_envs:
            result["rows"].append(measure(task, num_envs, args.steps, args.rounds))
            print(result["rows"][-1], flush=True)
    write_results(args.json, "Environment steps a second on ManiSkill", result)


if __name__ == "__main__":
    main()
