"""LatentConditioner: one code for exactly one episode."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torch.distributions import Independent, Normal
from torchrl.envs import SerialEnv, TransformedEnv

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.estimators import CategoricalMI
from modereg.networks import MLP
from modereg.priors import CategoricalPrior, LearnedPrior, Prior, SphericalPrior
from modereg.steering import SteeringPolicy
from modereg.testing import CountingEnv, check_transform
from modereg.transforms import LatentConditioner, MIReward


def test_the_code_stays_for_one_episode_and_the_end_carries_the_old_one():
    env = TransformedEnv(CountingEnv([3, 7, 4]), LatentConditioner(50))
    data = env.rollout(40, break_when_any_done=False)
    code, after = data["latent"], data["next", "latent"]
    assert torch.equal(code, after)
    done = data["next", "done"].squeeze(-1)
    changed = code[:, 1:] != code[:, :-1]
    assert not changed[~done[:, :-1]].any()
    assert changed[done[:, :-1]].float().mean() > 0.9
    features = torch.nn.functional.one_hot(code, 50).float()
    assert torch.equal(data["latent_features"], features)
    assert torch.equal(data["next", "latent_features"], features)


def test_codes_follow_the_prior():
    prior = CategoricalPrior(torch.tensor([0.7, 0.0, 0.3]))
    env = TransformedEnv(CountingEnv([2] * 4000), LatentConditioner(prior))
    share = torch.bincount(env.reset()["latent"], minlength=3) / 4000
    torch.testing.assert_close(share, torch.tensor([0.7, 0.0, 0.3]), atol=0.03, rtol=0)


def test_a_continuous_code_is_its_own_feature():
    normal = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    env = TransformedEnv(CountingEnv([3, 7]), LatentConditioner(normal))
    data = env.rollout(8, break_when_any_done=False)
    assert data["latent"].shape == (2, 8, 3)
    assert torch.equal(data["latent"], data["latent_features"])
    with env.transform.force(torch.ones(3)):
        assert (env.reset()["latent"] == 1).all()


def test_codes_come_from_torchs_generator_and_specs_do_not_draw():
    torch.manual_seed(3)
    first = TransformedEnv(CountingEnv([3] * 9), LatentConditioner(5)).reset()["latent"]
    torch.manual_seed(3)
    env = TransformedEnv(CountingEnv([3] * 9), LatentConditioner(5))
    assert env.observation_spec["latent"].n == 5
    assert torch.equal(env.reset()["latent"], first)


def test_forced_codes_hold_within_the_context_and_survive_nesting():
    conditioner = LatentConditioner(4)
    env = TransformedEnv(CountingEnv([3, 7]), conditioner)
    with conditioner.force(2):
        assert (env.rollout(20, break_when_any_done=False)["latent"] == 2).all()
        with conditioner.force(torch.tensor([0, 3])):
            assert env.reset()["latent"].tolist() == [0, 3]
        assert env.reset()["latent"].tolist() == [2, 2]
    drawn = torch.stack([env.reset()["latent"] for _ in range(50)])
    assert len(drawn.unique()) == 4


def test_forcing_reaches_the_clone_that_torchrl_makes_when_it_unwraps():
    conditioner = LatentConditioner(4)
    inner = TransformedEnv(CountingEnv([3, 7]), conditioner)
    with pytest.warns(UserWarning, match="automatically unwrapped"):
        env = TransformedEnv(inner, LatentConditioner(2, ("skill", "z"), ("skill", "features")))
    with conditioner.force(3):
        td = env.reset()
    assert td["latent"].tolist() == [3, 3]
    assert td["skill", "z"].max() < 2


@pytest.mark.parametrize("code", [4, -1, torch.tensor([0, 9])])
def test_a_forced_code_outside_the_support_is_refused(code: int | torch.Tensor):
    with pytest.raises(ConfigurationError, match="support"), LatentConditioner(4).force(code):
        pass


def test_a_forced_code_of_probability_zero_or_of_a_wrong_shape_is_refused():
    conditioner = LatentConditioner(CategoricalPrior(torch.tensor([0.5, 0.0, 0.5])))
    with pytest.raises(ConfigurationError, match="support"), conditioner.force(1):
        pass
    env = TransformedEnv(CountingEnv([3, 7]), conditioner)
    with conditioner.force(torch.tensor([0, 2, 0])):  # noqa: SIM117
        with pytest.raises(ConfigurationError, match=r"codes of shape \(2,\), got \(3,\)"):
            env.reset()


def test_a_step_without_its_code_is_refused():
    env = TransformedEnv(CountingEnv([3]), LatentConditioner(4))
    td = env.rand_action(env.reset()).exclude("latent")
    with pytest.raises(KeyMismatchError, match="'latent'"):
        env.step(td)


def test_partial_resets_keep_the_codes_of_the_other_rows():
    env = TransformedEnv(
        SerialEnv(2, [lambda: CountingEnv(5), lambda: CountingEnv(5)]), LatentConditioner(1000)
    )
    td = env.reset()
    before = td["latent"].clone()
    mask = torch.tensor([[True], [False]])
    after = env.reset(td.set("_reset", mask))["latent"]
    assert after[1] == before[1]
    assert after[0] != before[0]
    env.close()


def test_steer_makes_a_policy_that_reads_the_features():
    conditioner = LatentConditioner(4, features_key=("skill", "features"))
    policy = conditioner.steer(["observation"], 3, (4, 2), hidden=(8,))
    assert isinstance(policy, SteeringPolicy)
    env = TransformedEnv(CountingEnv([3, 7]), conditioner)
    out = policy(env.reset())
    assert out["action"].shape == (2, 4, 2)
    assert not out["loc"].any()


def test_an_environment_that_resets_itself_keeps_the_running_codes():
    conditioner = LatentConditioner(1000)
    old = torch.tensor([5, 6])
    td = TensorDict({"latent": old, "_reset": torch.tensor([[True], [False]])}, [2])
    out = conditioner._reset_on_native_autoreset(td, td.copy())
    assert out["latent"][1] == 6
    assert out["latent"][0] != 5


@pytest.mark.parametrize("prior", [SphericalPrior(3), LearnedPrior(4)], ids=repr)
def test_every_prior_serves_in_every_context(prior: Prior):
    check_transform(lambda: LatentConditioner(prior))


def test_a_code_of_a_sphere_has_unit_length_and_forced_ones_must_have_it():
    conditioner = LatentConditioner(SphericalPrior(3))
    env = TransformedEnv(CountingEnv([3, 7]), conditioner)
    codes = env.rollout(8, break_when_any_done=False)["latent"]
    torch.testing.assert_close(torch.linalg.vector_norm(codes, dim=-1), torch.ones(2, 8))
    with conditioner.force(torch.tensor([0, 0, 1])):
        assert env.reset()["latent"].tolist() == [[0.0, 0.0, 1.0]] * 2
    with pytest.raises(ConfigurationError, match=r"support of SphericalPrior\(dim=3\)"):  # noqa: SIM117
        with conditioner.force(torch.ones(3)):
            pass


def test_a_learned_prior_is_shared_with_every_copy_and_belongs_to_none():
    prior = LearnedPrior(4)
    conditioner = LatentConditioner(prior)
    env = TransformedEnv(CountingEnv([3, 7]), conditioner)
    copied = copy.deepcopy(conditioner)
    assert copied.prior is conditioner.clone().prior is prior
    assert copied.parent is None
    assert not list(env.parameters())
    assert not env.state_dict()
    with torch.no_grad():
        prior.logits[2] = 50.0
    other = TransformedEnv(CountingEnv([3, 7]), copied)
    for each in (env, other):
        assert (each.reset()["latent"] == 2).all()


def test_what_is_copied_after_a_conditioner_is_a_copy():
    """A snapshot of an environment and its estimator keeps the prior as it was."""
    estimator = CategoricalMI(6, LearnedPrior(4))
    conditioner = LatentConditioner(estimator.prior)
    _, snapshot = copy.deepcopy((conditioner, estimator))
    before = snapshot.prior.probs
    with torch.no_grad():
        estimator.prior.logits[2] = 50.0
    assert torch.equal(snapshot.prior.probs, before)
    kept, together = copy.deepcopy((estimator, conditioner))
    assert together.prior is kept.prior is not estimator.prior


def test_codes_outside_of_the_prior_are_refused_where_they_are_read():
    env = TransformedEnv(CountingEnv([5, 5]), LatentConditioner(2))
    root = env.rand_action(env.reset()).exclude(keys.LATENT_FEATURES)
    with pytest.raises(ConfigurationError, match=r"support \[0, 1\], got codes between 7 and 7"):
        env.step(root.set(keys.LATENT, torch.full((2,), 7)))


@pytest.mark.parametrize("code", [2, -1])
@pytest.mark.parametrize("timing", ["dense", "difference", "final"])
def test_codes_outside_of_the_prior_are_not_paid_for(timing: str, code: int):
    estimator = CategoricalMI(MLP(3, 2, (4,)), 2, in_keys=["observation"])
    data = TransformedEnv(CountingEnv([3, 4]), LatentConditioner(2)).rollout(3)
    reward = MIReward(estimator, timing=timing, gamma=1.0)
    assert reward(data[:, :0])["next", keys.MI_REWARD].shape == (2, 0, 1)
    with pytest.raises(ConfigurationError, match="from the prior's support"):
        reward(data.set(keys.LATENT, torch.full((2, 3), code)))


def test_codes_follow_another_prior_from_the_next_reset_on():
    env = TransformedEnv(CountingEnv([2] * 50), LatentConditioner(2))
    env.reset()
    prior = CategoricalPrior(2)
    env.transform.share(prior)
    prior.weigh(torch.tensor([0.0, 1.0]))
    assert env.reset()["latent"].unique().tolist() == [1]
    with pytest.raises(ConfigurationError, match=r"expected a prior like .*num_codes=2"):
        env.transform.share(CategoricalPrior(3))
