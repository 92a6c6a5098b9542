from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import Compose, GymWrapper, Transform, TransformedEnv
from torchrl.envs.utils import exploration_type

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.paths import Trace
from modereg.rollouts import Episodes, collect_episodes, iterate_episodes
from modereg.storage import load_state, save_state
from modereg.tasks import GaussianMixture, GymnasiumEnv
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import ActionChunk, History, LatentConditioner, NoiseAction, TimeLimit
from modereg.wrapping import make_steering, steer_env

LENGTHS = [3, 7, 5, 12]


def _half(tensordict: TensorDictBase) -> TensorDictBase:
    """Act by 1/8 and -1/16, exactly representable."""
    action = torch.tensor([0.125, -0.0625]).expand(*tensordict.batch_size, 2)
    return tensordict.set(keys.ACTION, action.clone())


def _collect(num: int, **options: object) -> Episodes:
    return collect_episodes(
        CountingEnv(LENGTHS),
        num,
        max_decisions=15,
        policy=_half,
        keep=[keys.OBSERVATION, keys.ACTION],
        final=[keys.OBSERVATION],
        **options,
    )


def test_one_whole_episode_of_every_sub_environment() -> None:
    episodes = _collect(4)
    lengths = torch.tensor(LENGTHS)
    assert len(episodes) == 4
    assert torch.equal(episodes.valid, torch.arange(15) < lengths[:, None])
    assert torch.equal(episodes.env_steps, lengths)
    assert torch.equal(episodes.returns, lengths * 1.0625)
    assert torch.equal(episodes.final.get(keys.OBSERVATION)[:, 0], lengths.float())
    assert torch.equal(episodes.final.get(keys.OBSERVATION)[:, 1], lengths * 0.125)
    counted = episodes.decisions.get(keys.OBSERVATION)[..., 0]
    assert torch.equal(
        counted[episodes.valid], torch.cat([torch.arange(float(n)) for n in LENGTHS])
    )
    assert not bool(episodes.decisions.get(keys.OBSERVATION).isnan().any())
    assert episodes.clipped == 0.0
    assert set(episodes.decisions.keys()) == {keys.OBSERVATION, keys.ACTION}


def test_steps_that_are_lost_are_counted_too() -> None:
    assert _collect(4).spent == 4 * max(LENGTHS)
    assert _collect(2).spent == 4 * max(LENGTHS)
    stays = collect_episodes(
        GaussianMixture(64), 64, max_decisions=24, policy=GaussianMixture(64).rand_action
    )
    assert stays.spent == int(stays.env_steps.sum())


def test_short_episodes_are_not_over_represented() -> None:
    """Whoever takes what ends first has four episodes of 3 steps for one of 12."""
    episodes = _collect(20)
    assert episodes.env_steps.tolist() == LENGTHS * 5


@pytest.mark.parametrize("num", [1, 3, 4, 5, 9])
def test_fewer_and_more_episodes_than_environments(num: int) -> None:
    episodes = _collect(num)
    assert len(episodes) == num == len(episodes.final) == len(episodes.decisions)
    assert episodes.env_steps.tolist() == (LENGTHS * 3)[:num]


def test_flat_decisions_of_chosen_episodes() -> None:
    episodes = _collect(4)
    flat = episodes.flat(torch.tensor([True, False, True, False]))
    assert flat.get(keys.OBSERVATION)[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]


def test_an_episode_beyond_the_last_decision_is_cut_there() -> None:
    episodes = collect_episodes(
        CountingEnv(LENGTHS),
        10,
        max_decisions=6,
        policy=_half,
        final=[keys.OBSERVATION],
        cut=True,
    )
    assert episodes.env_steps.tolist() == [3, 6, 5, 6, 3, 6, 5, 6, 3, 6]
    assert episodes.final.get(keys.OBSERVATION)[:, 0].tolist() == episodes.env_steps.tolist()
    assert bool(episodes.valid[1].all())


def test_an_episode_that_outlives_the_last_decision_is_named() -> None:
    """The history of 6 decisions would forget the start of episodes of 7 and 12."""
    with pytest.raises(ConfigurationError, match=r"max_decisions=6 .* 2 of 4 that go on, in rows"):
        collect_episodes(CountingEnv(LENGTHS), 4, max_decisions=6, policy=_half)
    assert len(collect_episodes(CountingEnv(LENGTHS), 4, max_decisions=12, policy=_half)) == 4


def test_episodes_come_batch_by_batch_and_joined_are_those_that_were_collected() -> None:
    entries = [keys.OBSERVATION]
    options = dict(max_decisions=15, policy=_half, keep=entries, final=entries)
    env = CountingEnv(LENGTHS, start_noise=1.0)
    torch.manual_seed(0)
    before, parts = exploration_type(), iterate_episodes(env, 10, **options)
    first = next(parts)
    assert exploration_type() == before  # an open iterator leaves it to its caller
    assert torch.is_grad_enabled()
    parts = [first, *parts]
    assert [len(part) for part in parts] == [4, 4, 2]
    torch.manual_seed(0)
    joined, whole = Episodes.cat(parts), collect_episodes(env, 10, **options)
    for name in ("decisions", "valid", "final", "returns", "env_steps"):
        assert bool((getattr(joined, name) == getattr(whole, name)).all()), name
    assert (joined.spent, joined.clipped) == (whole.spent, whole.clipped)


def test_options_are_checked_before_the_first_part_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="at least one episode"):
        iterate_episodes(CountingEnv(LENGTHS), 0, max_decisions=3)
    with pytest.raises(ConfigurationError, match="max_decisions of at least 1, got 0"):
        iterate_episodes(CountingEnv(LENGTHS), 3, max_decisions=0)
    with pytest.raises(ConfigurationError, match="carries no layout; give it"):
        iterate_episodes(CountingEnv(LENGTHS), 3)


def test_the_longest_episode_is_read_from_the_layout() -> None:
    env = CountingEnv(LENGTHS)
    env.__dict__["layout"] = Layout(13, execute=1)
    assert collect_episodes(env, 4, policy=_half).valid.shape == (4, 13)


def _steered(gamma: float = 1.0) -> TransformedEnv:
    return TransformedEnv(
        GaussianMixture(16, pay_spread=0.3, max_delta=0.1),
        Compose(
            ActionChunk(4, gamma=gamma, horizon=4),
            NoiseAction(TinyPolicy(2, scale=0.15)),
            LatentConditioner(3),
        ),
    )


def test_returns_and_steps_of_chunks_equal_a_loop_over_environment_steps() -> None:
    env = _steered()
    env.set_seed(5)
    torch.manual_seed(5)
    entries = [keys.OBSERVATION, keys.ACTION]
    episodes = collect_episodes(
        env, 16, max_decisions=6, keep=entries, final=[keys.OBSERVATION, keys.MODE, keys.LATENT]
    )

    policy, plain = TinyPolicy(2, scale=0.15), GaussianMixture(16, pay_spread=0.3, max_delta=0.1)
    plain.set_seed(5)
    state, returns, steps = plain.reset(), torch.zeros(16), torch.zeros(16, dtype=torch.int64)
    clipped, alive = torch.zeros(16), torch.ones(16, dtype=torch.bool)
    for decision in range(6):
        assert torch.equal(
            state.get(keys.OBSERVATION)[alive],
            episodes.decisions.get(keys.OBSERVATION)[:, decision][alive],
        )
        noise = episodes.decisions.get(keys.ACTION)[:, decision]
        chunk = policy.decode(noise, state.get(keys.OBSERVATION))
        for index in range(4):
            action = chunk[:, index]
            state = plain.step(state.set(keys.ACTION, action)).get("next")
            returns += alive * state.get(keys.REWARD).squeeze(-1)
            steps += alive
            clipped += alive * (action.abs() > plain.max_delta).float().mean(-1)
            alive = alive & ~state.get("done").squeeze(-1)
    assert torch.equal(episodes.env_steps, steps)
    assert torch.allclose(episodes.returns, returns)
    assert torch.equal(episodes.final.get(keys.OBSERVATION), state.get(keys.OBSERVATION))
    assert torch.equal(episodes.final.get(keys.MODE), state.get(keys.MODE))
    assert 0.05 < episodes.clipped < 0.95
    assert episodes.final.get(keys.LATENT).shape == (16,)


@pytest.mark.parametrize("rows_stay", [False, True])
def test_the_code_of_an_episode_is_the_one_it_was_played_with(rows_stay: bool) -> None:
    env = _steered() if rows_stay else _uneven(range(16))
    episodes = collect_episodes(env, 40, max_decisions=6, keep=[keys.LATENT], final=[keys.LATENT])
    codes = episodes.decisions.get(keys.LATENT)
    same = codes == episodes.final.get(keys.LATENT)[:, None]
    assert bool(same[episodes.valid].all())
    assert len(episodes.final.get(keys.LATENT).unique()) == 3


def test_deterministic_acts_by_the_mean() -> None:
    policy = TinyPolicy(2, scale=0.15)
    mixture = GaussianMixture(16, pay_spread=0.3, max_delta=0.1)
    env = steer_env(mixture, policy, 3, Layout(24))
    steering = make_steering(env, policy, 3)
    options = dict(policy=steering, keep=[keys.ACTION, "loc"])
    mean = collect_episodes(env, 16, deterministic=True, **options)
    assert torch.equal(mean.decisions.get(keys.ACTION), mean.decisions.get("loc"))
    sampled = collect_episodes(env, 16, **options)
    noise = sampled.decisions.get(keys.ACTION)[sampled.valid]
    assert abs(float(noise.std()) - 1.0) < 0.1


def test_joining_weighs_the_clipped_share_by_steps() -> None:
    def part(steps: int, clipped: float) -> Episodes:
        return Episodes(
            decisions=TensorDict({}, [1, 2]),
            valid=torch.ones(1, 2, dtype=torch.bool),
            final=TensorDict({}, [1]),
            returns=torch.zeros(1),
            env_steps=torch.tensor([steps]),
            spent=steps,
            clipped=clipped,
        )

    whole = Episodes.cat([part(1, 0.0), part(3, 0.4)])
    assert whole.clipped == pytest.approx(0.3)
    assert whole.env_steps.tolist() == [1, 3]
    assert whole.spent == 4


def test_a_dictionary_of_plain_values_brings_episodes_back(tmp_path: Path) -> None:
    """Nested entries too, through a file, and whatever is joined or chosen afterwards."""
    made = _collect(6)
    made.decisions.set(("agent", "place"), made.decisions[keys.OBSERVATION][..., :1])
    made.final.set(("agent", "place"), made.final[keys.OBSERVATION][:, :1])
    save_state(tmp_path / "episodes.pt", made.to_dict())
    found = Episodes.from_dict(load_state(tmp_path / "episodes.pt"))
    assert found.decisions.batch_size == made.decisions.batch_size
    assert found.final.batch_size == made.final.batch_size
    for name in ("decisions", "final"):
        ours, theirs = getattr(found, name), getattr(made, name)
        assert set(ours.keys(True, True)) == set(theirs.keys(True, True))
        assert bool((ours == theirs).all())
    for name in ("valid", "returns", "env_steps"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    assert (found.spent, found.clipped, len(found)) == (made.spent, made.clipped, 6)
    joined = Episodes.cat([found[:2], made[2:]])
    assert bool((joined.flat() == made.flat()).all())


def test_an_unbatched_or_empty_environment_and_no_episodes_are_refused() -> None:
    for env, num in (
        (CountingEnv(3), 4),
        (CountingEnv([3, 4]), 0),
        (CountingEnv([], bound=None), 4),
    ):
        with pytest.raises(ConfigurationError, match="at least one episode"):
            collect_episodes(env, num, max_decisions=5)


def _lengths(row: int) -> Iterator[int]:
    """Return the random lengths of a row's episodes."""
    return iter(np.random.default_rng(row).integers(1, 12, 99).tolist())


class Walk(gymnasium.Env):
    """Counts a random number of steps down, from below to 0, and adds up the actions."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-0.5, 0.5, (2,), np.float32)

    def __init__(self, row: int) -> None:
        self.lengths, self.rng = _lengths(row), np.random.default_rng(row)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.state = np.array([-next(self.lengths), *self.rng.uniform(-1.0, 1.0, 2)], np.float32)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.state += np.array([1.0, *action], np.float32)
        done = bool(self.state[0] >= 0)
        return self.state.copy(), float(self.state[1]), done, False, {}


class Uneven(CountingEnv):
    """Counts up to another number of steps in each episode of each row."""

    def __init__(self, lengths: Sequence[Iterator[int]]) -> None:
        super().__init__([1] * len(lengths))
        self.coming = lengths

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        fresh = range(len(self.coming)) if mask is None else mask.flatten().nonzero().flatten()
        for row in map(int, fresh):
            self.lengths[row] = next(self.coming[row])
        return super()._reset(tensordict, **kwargs)


def _decisions(*inner: Transform) -> Compose:
    return Compose(*inner, ActionChunk(2), History(length=6), LatentConditioner(3))


def _uneven(rows: Sequence[int]) -> TransformedEnv:
    return TransformedEnv(Uneven([*map(_lengths, rows)]), _decisions(TimeLimit(8, "truncates")))


def _walk(rows: Sequence[int]) -> TransformedEnv:
    remaining = iter(rows)
    env = GymnasiumEnv(lambda: Walk(next(remaining)), len(rows))
    return TransformedEnv(env, _decisions(TimeLimit(8, "truncates")))


def _back(tensordict: TensorDictBase) -> TensorDictBase:
    """Push back to the middle, twice; exact in every batch size."""
    action = -0.25 * tensordict.get(keys.OBSERVATION)[..., 1:] + 0.125
    return tensordict.set(keys.ACTION, torch.stack([action, 0.5 * action], -2))


SEEN = [keys.OBSERVATION, keys.HISTORY]


@pytest.mark.parametrize("make", [_uneven, _walk])
def test_every_episode_is_that_of_its_row_alone(
    make: Callable[[Sequence[int]], TransformedEnv],
) -> None:
    """Episode k is number k // 5 of row k % 5, whatever ends before it."""
    torch.manual_seed(1)
    options = dict(max_decisions=6, policy=_back, keep=SEEN, final=SEEN)
    parts = list(iterate_episodes(make(range(5)), 17, **options))
    episodes = Episodes.cat(parts)
    assert [len(part) for part in parts] == [5, 5, 5, 2]
    assert len(episodes.env_steps.unique()) > 3
    for row in range(5):
        alone = make([row])
        for number in range(row, 17, 5):
            data = alone.rollout(6, _back)[0]
            length = len(data)
            assert int(episodes.valid[number].sum()) == length
            for key in SEEN:
                assert torch.equal(episodes.decisions.get(key)[number, :length], data.get(key))
                assert torch.equal(episodes.final.get(key)[number], data.get(("next", key))[-1])
            assert int(episodes.env_steps[number]) == int(data.get(("next", keys.STEPS)).sum())
            assert float(episodes.returns[number]) == pytest.approx(
                float(data.get(("next", keys.REWARD)).sum())
            )


def test_every_episode_of_an_environment_that_resets_itself_goes_on_as_it_began() -> None:
    vector = SyncVectorEnv(
        [partial(Walk, row) for row in range(5)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    env = GymWrapper(vector)
    env.append_transform(_decisions())
    episodes = collect_episodes(env, 17, max_decisions=6, policy=_back, keep=SEEN, final=SEEN)
    assert len(episodes.env_steps.unique()) > 3
    for number in range(17):
        state, seen = episodes.decisions.get(keys.OBSERVATION)[number, 0].clone(), []
        while state[0] < 0:
            seen.append(state.clone())
            action = 0.125 - 0.25 * state[1:]
            for scale in (1.0, 0.5)[: int(-state[0])]:
                state += torch.cat([torch.ones(1), scale * action])
        decisions = episodes.decisions.get(keys.OBSERVATION)[number, episodes.valid[number]]
        assert torch.equal(decisions, torch.stack(seen))
        assert torch.equal(episodes.final.get(keys.OBSERVATION)[number], state)
        assert int(episodes.env_steps[number]) == -int(seen[0][0])
        history = torch.stack([*seen, *[state] * (7 - len(seen))])
        assert torch.equal(episodes.final.get(keys.HISTORY)[number], history.flatten())


def test_rows_go_on_until_each_has_played_its_share() -> None:
    """What the fast rows play after their last episode is spent, and nothing else is lost."""
    env, steps = Uneven([*map(_lengths, range(5))]), []

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        steps.append(5)
        return _half(tensordict)

    parts = list(iterate_episodes(env, 20, max_decisions=12, policy=act))
    episodes = Episodes.cat(parts)
    each_row = episodes.env_steps.view(4, 5).sum(0)
    assert episodes.spent == sum(steps) == 5 * int(each_row.max())
    by_turn = [sum(part.spent for part in parts[:count]) for count in range(1, 5)]
    assert by_turn == (5 * episodes.env_steps.view(4, 5).cumsum(0).amax(1)).tolist()
    together = 5 * int(episodes.env_steps.view(4, 5).amax(1).sum())
    assert episodes.spent < together


def test_a_later_episode_that_outlives_the_last_decision_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"max_decisions=6 .* 1 of 2 that .* rows \[0\]"):
        collect_episodes(Uneven([iter([1, 7]), iter([6, 6])]), 4, max_decisions=6, policy=_half)


def test_what_a_row_plays_after_its_share_may_outlive_the_last_decision() -> None:
    env = Uneven([iter([1, 1, 9, 9]), iter([6, 6, 6])])
    episodes = collect_episodes(env, 4, max_decisions=6, policy=_half)
    assert (episodes.env_steps.tolist(), episodes.spent) == ([1, 6, 1, 6], 24)


def test_codes_are_drawn_anew_for_every_episode() -> None:
    episodes = collect_episodes(
        _uneven(range(5)), 50, max_decisions=6, policy=_back, final=[keys.LATENT]
    )
    codes = episodes.final.get(keys.LATENT).view(10, 5)
    assert bool((codes != codes[0]).any(0).all())


def test_positions_of_every_episode_of_every_row_are_found_again() -> None:
    env = _walk(range(5))
    env.insert_transform(0, trace := Trace(keys.OBSERVATION))
    options = dict(max_decisions=6, policy=_back, keep=[keys.OBSERVATION])
    episodes = collect_episodes(env, 17, final=[keys.OBSERVATION, keys.LATENT], **options)
    positions = trace.paths(episodes).positions
    for number, length in enumerate(episodes.env_steps.tolist()):
        seen = episodes.decisions.get(keys.OBSERVATION)[number, episodes.valid[number]]
        assert torch.equal(positions[number, : 2 * len(seen) : 2], seen)
        last = episodes.final.get(keys.OBSERVATION)[number]
        assert torch.equal(positions[number, length:], last.expand_as(positions[number, length:]))
