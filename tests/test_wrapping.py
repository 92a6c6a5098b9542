from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchrl.envs import CatFrames, Compose, SerialEnv, TransformedEnv, UnsqueezeTransform

from modereg import keys, wrap
from modereg.discovery import ClusterModeDiscoverer, VariationalModeDiscoverer, discover_modes
from modereg.errors import ConfigurationError, ModeregError, ShapeError
from modereg.estimators import CategoricalMI
from modereg.layout import Layout
from modereg.policies import as_generative_policy
from modereg.priors import LearnedPrior
from modereg.rollouts import collect_episodes
from modereg.tasks import GaussianMixture
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import LatentConditioner, MIReward
from modereg.wrapping import SteeredEnv, make_steering, observation_size, steer_env

MIXTURE = Layout(24, time_limit="terminates")


@pytest.mark.parametrize("discoverer", ["cluster", "variational"])
def test_the_pieces_fit(discoverer: str) -> None:
    env, steering, modes = wrap(
        GaussianMixture(16), TinyPolicy(2), MIXTURE, 3, discoverer=discoverer, steps=9
    )
    kind = {"cluster": ClusterModeDiscoverer, "variational": VariationalModeDiscoverer}[discoverer]
    assert isinstance(env, SteeredEnv)
    assert env.layout == MIXTURE.for_policy(TinyPolicy(2))
    assert type(modes) is kind
    assert modes.prior.num_codes == 3
    rollout = env.rollout(6, steering, break_when_any_done=False)
    assert rollout.get(keys.ACTION).shape == (16, 6, 4, 2)
    assert rollout.get(("next", keys.EXECUTED)).shape == (16, 6, 4, 2)
    assert rollout.get(("next", keys.HISTORY)).shape == (16, 6, 7 * 2)
    assert modes.log_prob(rollout.get("next")).shape == (16, 6, 3)
    assert modes(rollout) is rollout
    reward = MIReward(modes.estimator, env.layout)
    assert (reward.timing, reward.gamma) == ("final", 0.999)
    paid = reward(rollout).get(("next", keys.MI_REWARD))
    assert paid.shape == (16, 6, 1)


def test_the_usual_layout_of_a_diffusion_policy() -> None:
    """Two observation steps, chunks of 16 of which the second to ninth action are played."""
    stack = Compose(
        UnsqueezeTransform(-2, in_keys=["observation"]),
        CatFrames(2, dim=-2, in_keys=["observation"]),
    )
    env = TransformedEnv(GaussianMixture(16, dtype=torch.float64), stack)
    policy = as_generative_policy(
        lambda noise, seen: 0.05 * noise + 0.01 * seen.mean(-2, keepdim=True),
        in_keys=["observation"],
        noise_shape=(16, 2),
        chunk_shape=(16, 2),
    )
    steered, steering, modes = wrap(env, policy, Layout(24, execute=8, offset=1), 2)
    rollout = steered.rollout(3, steering)
    assert rollout["observation"].shape == (16, 3, 2, 2)
    assert rollout["next", keys.HISTORY].shape == (16, 3, 4 * 4)
    assert rollout["next", keys.EXECUTED].shape == (16, 3, 8, 2)
    for method, steps in (("guided", ("outcome", "guide")), ("imitation", ("imitation", "refine"))):
        options = {"refinements": 1} | {f"{name}_steps": 2 for name in steps}
        figures = discover_modes(steered, steering, modes, method=method, episodes=32, **options)
        assert modes.fitted
        assert 0 <= figures[-1]["hits"] <= 1


def test_at_the_start_it_is_the_base_policy_with_the_same_seeds() -> None:
    """Noise for noise and state for state, whatever the code."""
    policy = TinyPolicy(2, scale=0.1)
    env, steering, _ = wrap(GaussianMixture(32), policy, MIXTURE, 5)
    env.set_seed(3)
    plain = GaussianMixture(32, seed=3)
    steered, state = env.reset(), plain.reset()
    seen, expected = [], []
    torch.manual_seed(4)
    for _ in range(3):
        steered = env.step_mdp(env.step(steering(steered)))
        seen.append(steered.get(keys.OBSERVATION))
    torch.manual_seed(4)
    for _ in range(3):
        noise = policy.draw_noise([32])
        chunk = policy.decode(noise, state.get(keys.OBSERVATION))
        for action in chunk.unbind(1):
            state = plain.step(state.set(keys.ACTION, action)).get("next")
        expected.append(state.get(keys.OBSERVATION))
    assert torch.equal(torch.stack(seen), torch.stack(expected))


def test_the_policy_is_frozen_and_the_rest_is_not() -> None:
    policy = TinyPolicy(2)
    policy.noise_map.requires_grad_(True)
    env, steering, modes = wrap(GaussianMixture(4), policy, MIXTURE, 3)
    assert not any(parameter.requires_grad for parameter in policy.parameters())
    assert all(parameter.requires_grad for parameter in steering.parameters())
    assert any(parameter.requires_grad for parameter in modes.parameters())
    mine = {id(parameter) for parameter in [*steering.parameters(), *modes.parameters()]}
    assert mine.isdisjoint(id(parameter) for parameter in policy.parameters())
    assert not env.rollout(2, steering).get(("next", keys.CHUNK), torch.zeros(())).requires_grad


def test_chunk_layout_features_and_what_the_steering_reads() -> None:
    env, steering, modes = wrap(
        CountingEnv([6, 9]),
        TinyPolicy(3, (5, 2)),
        Layout(
            10, execute=2, offset=1, gamma=0.5, feature_keys=[keys.OBSERVATION], feature_dims=[1, 2]
        ),
        3,
        discoverer="cluster",
        hidden=(8,),
    )
    rollout = env.rollout(3, steering, break_when_any_done=False)
    chunk, executed = rollout.get(keys.ACTION), rollout.get(("next", keys.EXECUTED))
    assert chunk.shape == (2, 3, 5, 2)
    assert executed.shape == (2, 3, 2, 2)
    assert rollout.get(("next", keys.STEPS))[0].flatten().tolist() == [2, 2, 2]
    played = executed.sum(-1)
    reward = (1 + played[..., 0]) + 0.5 * (1 + played[..., 1])
    assert torch.allclose(rollout.get(("next", keys.REWARD)).squeeze(-1), reward)
    assert rollout.get(keys.HISTORY).shape == (2, 3, 6 * 2)
    assert modes.feature_keys == [keys.HISTORY]
    assert isinstance(modes, ClusterModeDiscoverer)
    assert modes.history_length == 6
    default = wrap(CountingEnv([6, 9]), TinyPolicy(3, (5, 2)), Layout(12, offset=1), 8)
    assert default.env.rollout(1).get(("next", keys.EXECUTED)).shape == (2, 1, 4, 2)
    assert default.discoverer.prior.num_codes == 8


def test_nested_observations() -> None:
    key = ("agent", "state")
    policy = TinyPolicy(3, observation_keys=[key])
    env, steering, modes = wrap(CountingEnv([5, 9], observation_key=key), policy, Layout(16), 2)
    assert steering.observation_keys == [key]
    episodes = collect_episodes(env, 2, policy=steering, final=[key, keys.HISTORY, keys.LATENT])
    assert episodes.final.get(key)[:, 0].tolist() == [5, 9]
    assert episodes.final.get(keys.HISTORY).shape == (2, 5 * 3)
    assert modes.log_prob(episodes.final).shape == (2, 2)


def test_a_discoverer_of_other_codes_than_the_environment_is_refused() -> None:
    env, _, _ = wrap(GaussianMixture(4), TinyPolicy(2), MIXTURE, 5)
    other = wrap(GaussianMixture(4), TinyPolicy(2), MIXTURE, 3).discoverer
    reward = MIReward(other.estimator, timing="final", gamma=1.0)
    with pytest.raises(ConfigurationError, match=r"prior \(3 codes .* environment with 5 codes"):
        env.append_transform(reward)


def test_noise_of_the_wrong_shape_is_named() -> None:
    env, steering, _ = wrap(GaussianMixture(4), TinyPolicy(2), MIXTURE, 3)
    root = env.reset()
    with pytest.raises(ModeregError, match=r"noise of shape \(4, 4, 2\) .*got \(4, 3, 2\)"):
        env.step(root.set(keys.ACTION, torch.zeros(4, 3, 2)))
    with pytest.raises(ShapeError, match="noise"):
        TinyPolicy(2).decode_from(root, torch.zeros(4, 3, 2))


def test_mistakes_are_answered_in_a_sentence() -> None:
    env, policy = GaussianMixture(4), TinyPolicy(2)
    with pytest.raises(ConfigurationError, match="the observation 'image', got an environment"):
        wrap(env, policy, replace(MIXTURE, steering_keys=("image",)))
    with pytest.raises(ConfigurationError, match=r"discoverer of \['cluster', 'variational'\]"):
        wrap(env, policy, MIXTURE, discoverer="oracle")
    with pytest.raises(ConfigurationError, match="ClusterModeDiscoverer has no option widths; it"):
        wrap(env, policy, MIXTURE, widths=(8,))
    with pytest.raises(ConfigurationError, match="at least one code"):
        wrap(env, policy, MIXTURE, 0)


def test_clusters_take_no_prior_that_learns() -> None:
    with pytest.raises(ConfigurationError, match="expected the number of codes for discoverer="):
        wrap(GaussianMixture(4), TinyPolicy(2), MIXTURE, LearnedPrior(3))
    steered, _, found = wrap(
        GaussianMixture(4),
        TinyPolicy(2),
        MIXTURE,
        prior := LearnedPrior(3),
        discoverer="variational",
    )
    assert found.prior is prior
    assert [t.prior for t in steered.transform if isinstance(t, LatentConditioner)] == [prior]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"in_keys": ["image"]}, r"\['image'\] of 'next'"),
        ({"in_keys": ["action"]}, r"\['action'\] of 'next'"),
        ({"latent_key": "code"}, r"\['code'\] of 'next'.*latent_key 'latent'"),
        ({"in_keys": ["image"], "source": "root"}, r"\['image'\] of 'root'"),
    ],
)
def test_an_estimator_of_what_is_not_there_is_refused(options: dict, named: str) -> None:
    estimator = CategoricalMI(14, 3, **options)
    env, policy = GaussianMixture(4), TinyPolicy(2)
    with pytest.raises(ConfigurationError, match=f"got CategoricalMI that also reads {named}"):
        wrap(env, policy, MIXTURE, discoverer="variational", estimator=estimator)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, {"in_keys": ["observation"]}),
        (14 + 8, {"in_keys": ["history", "action"], "source": "root"}),
    ],
)
def test_an_estimator_of_states_or_of_what_was_decided(size: int, options: dict) -> None:
    estimator = CategoricalMI(size, 3, **options)
    env, steering, found = wrap(
        GaussianMixture(16),
        TinyPolicy(2),
        MIXTURE,
        discoverer="variational",
        estimator=estimator,
        steps=1,
    )
    rollout = env.rollout(6, steering, break_when_any_done=False)
    found.observe(rollout)
    assert found.update()["bound"] <= estimator.upper_limit
    paid = MIReward(estimator, timing="dense", gamma=0.999)(rollout)["next", keys.MI_REWARD]
    assert bool(paid.isfinite().all())


def test_sizes_and_the_steered_environment_alone() -> None:
    env = SerialEnv(2, lambda: CountingEnv(5))
    assert observation_size(env, [keys.OBSERVATION]) == 3
    steered = steer_env(env, TinyPolicy(3), 4, Layout(6, execute=3))
    assert observation_size(steered, [keys.OBSERVATION, keys.HISTORY]) == 3 + 9
    policy = make_steering(steered, TinyPolicy(3), 4, hidden=(8,), octaves=2)
    assert policy.in_keys == [keys.OBSERVATION, keys.LATENT_FEATURES]
    assert steered.layout.max_decisions == 2
    rollout = steered.rollout(2, policy)
    assert torch.equal(rollout.get("loc"), torch.zeros(2, 2, 4, 2))
    assert torch.equal(rollout.get("scale"), torch.ones(2, 2, 4, 2))
    steered.close()


def test_a_subspace_of_the_noise_is_all_that_is_steered() -> None:
    policy = TinyPolicy(2)
    basis = torch.linalg.qr(torch.randn(8, 3)).Q
    env, steering, _ = wrap(GaussianMixture(4), policy, replace(MIXTURE, noise_basis=basis), 2)
    assert env.layout.noise_basis is basis
    rollout = env.rollout(2, steering)
    assert rollout.get(keys.ACTION).shape == (4, 2, 3)
    assert steering.noise_shape == torch.Size([3])


def test_an_environment_without_a_clock_gets_one_where_time_ends_episodes() -> None:
    layout = Layout(8, execute=2)
    for limit, clock in (("truncates", False), ("terminates", True)):
        env = steer_env(CountingEnv([3, 9]), TinyPolicy(3), 2, replace(layout, time_limit=limit))
        assert (keys.ELAPSED in set(env.observation_spec.keys())) == clock
        assert (keys.ELAPSED in env.layout.steered_by) == clock
    ended = env.rollout(4, break_when_any_done=False)[1]
    assert ended.get(("next", "terminated")).flatten().tolist() == [False, False, False, True]


def test_the_base_policy_is_in_eval_mode() -> None:
    policy = TinyPolicy(2).train()
    wrap(GaussianMixture(4), policy, MIXTURE, 3)
    assert not policy.training


def test_a_layout_of_another_policy_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 6 actions, of which 0 to 5 .*with 4; lower"):
        wrap(GaussianMixture(4), TinyPolicy(2), replace(MIXTURE, horizon=8, execute=6))
