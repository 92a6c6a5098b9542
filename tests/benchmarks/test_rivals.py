"""Other ways to keep behaviours: what each pays, plays and finds, by hand."""

from __future__ import annotations

import copy
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from benchmarks.support.first_episodes import MASK, first_episodes
from benchmarks.support.golden_ticket import GoldenTicket
from benchmarks.support.group_matching import GroupMatching
from benchmarks.support.inverse_probability import IPS, KEY, IPSReward
from benchmarks.support.rivals import (
    MatchingConfig,
    PPOWithIPSConfig,
    SACWithIPSConfig,
    TicketConfig,
)
from modereg import keys
from modereg.checkpoints import Adapter, save_adapter
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI
from modereg.priors import CategoricalPrior, NormalPrior, Prior
from modereg.recipes.config.text import from_yaml, to_yaml
from modereg.seeding import generator_state, set_generator_state
from modereg.wrapping import observation_size
from tests.learners.made import problem

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Told(nn.Module):
    """Reads the code that stands in the data."""

    in_keys = ("told",)

    def __init__(self, prior: Prior | None = None) -> None:
        super().__init__()
        self.prior = prior or CategoricalPrior(2)
        self.register_buffer("somewhere", torch.zeros(1))

    def log_prob(self, final: TensorDictBase) -> Tensor:
        return nn.functional.one_hot(final["told"].squeeze(-1), 2).log()


def rule(**options: Any) -> IPSReward:
    return IPSReward(Told(), **({"floor": 0.0, "window": 100, "least": 0.01} | options))


def ended(
    returns: list[float], told: list[int], success: list[bool], done: list[bool] | None = None
) -> TensorDict:
    """Return transitions ``[n]`` that pay half of their episode's return."""
    column = {
        keys.EPISODE_REWARD: torch.tensor(returns),
        keys.REWARD: 0.5 * torch.tensor(returns),
        keys.SUCCESS: torch.tensor(success),
        "told": torch.tensor(told),
        "done": torch.tensor([True] * len(told) if done is None else done),
    }
    after = {name: value.unsqueeze(-1) for name, value in column.items()}
    return TensorDict({"next": after}, [len(told)])


# --- inverse probability scaling


def test_a_return_is_divided_by_the_share_of_its_outcome() -> None:
    """Of 8 episodes 4, 1 and 3 reach code 0, code 1 and nothing: .5, .125 and .375; K is 2."""
    pays = rule()
    pays.count = 0.0  # shares as they are, without those at the start
    told = [0, 0, 0, 0, 1, 0, 1, 1]
    solved = [True] * 5 + [False] * 3
    batch = ended([2.0] * 5 + [0.0] * 3, told, solved)
    figures = pays.update(batch)
    assert figures == {"share_min": 0.125, "share_fails": 0.375}
    paid = pays(batch)["next", KEY].squeeze(-1)
    extra = [2.0 / (2 * 0.5) - 2.0, 2.0 / (2 * 0.125) - 2.0]  # beside the half that is there
    expected = [1.0 + extra[0]] * 4 + [1.0 + extra[1]] + [0.0] * 3
    assert paid.tolist() == pytest.approx(expected)


def test_only_the_end_of_an_episode_is_paid_more_and_nothing_is_overwritten() -> None:
    pays, batch = rule(), ended([2.0, 2.0], [0, 1], [True, True], [False, True])
    before = batch.clone()
    pays(batch)
    assert batch["next", KEY][0] == batch["next", keys.REWARD][0] == 1.0
    assert (batch.exclude(("next", KEY)) == before).all()


def test_shares_begin_equal_and_forget() -> None:
    pays = rule(window=6)
    torch.testing.assert_close(pays.shares, torch.full((3,), 1 / 3))
    pays.update(ended([1.0] * 3, [0] * 3, [True] * 3))  # three of the start and three
    torch.testing.assert_close(pays.shares, torch.tensor([4 / 6, 1 / 6, 1 / 6]))
    pays.update(ended([1.0] * 6, [1] * 6, [True] * 6))
    torch.testing.assert_close(pays.shares, torch.tensor([0.0, 1.0, 0.0]))
    paid = pays(ended([1.0], [0], [True]))["next", KEY]
    assert float(paid) == pytest.approx(0.5 + 1 / (2 * 0.01) - 1.0)  # no less than ``least``
    assert pays.update(ended([9.0], [0], [True], [False]))["share_min"] == 0.0  # none has ended


def test_returns_are_counted_from_the_floor_and_none_may_lie_below() -> None:
    """Of -4 and -1 with a floor of -5, 1 and 4 are left; at equal shares 1/3 they are 1.5, 6."""
    pays, batch = rule(floor=-5.0), ended([-4.0, -1.0], [0, 1], [True, True])
    paid = pays(batch)["next", KEY].squeeze(-1) + 0.5 * torch.tensor([-4.0, -1.0])
    assert paid.tolist() == pytest.approx([1.5, 6.0])
    with pytest.raises(ConfigurationError, match=r"at least the floor -2.0, got -4.0.*rare"):
        rule(floor=-2.0).update(batch)


def test_its_fixed_point_is_a_policy_in_proportion_to_the_returns() -> None:
    """Two outcomes that pay 3 and 1, by the exact gradient; the return alone takes the first."""
    pays = torch.tensor([3.0, 1.0])
    for scaled, expected in ((True, [0.75, 0.25]), (False, [1.0, 0.0])):
        logits = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.SGD([logits], 0.5)
        for _ in range(2000):
            policy = logits.softmax(-1)
            worth = pays / policy.detach() if scaled else pays
            optimizer.zero_grad()
            (-(policy * worth).sum()).backward()
            optimizer.step()
        assert logits.softmax(-1).tolist() == pytest.approx(expected, abs=0.01)


def test_padding_ends_nothing_and_continuous_codes_are_refused() -> None:
    pays, batch = rule(), ended([1.0, -9.0], [0, 1], [True, True])
    batch[("collector", "mask")] = torch.tensor([True, False])
    pays.update(batch)
    torch.testing.assert_close(pays.shares, torch.tensor([2 / 4, 1 / 4, 1 / 4]))
    with pytest.raises(ConfigurationError, match="expected discrete codes"):
        IPSReward(Told(NormalPrior(2)), floor=0.0, window=9, least=0.1)


class Kept:
    """A learner that remembers what it was paid."""

    checkpoint_every = 3

    def __init__(self) -> None:
        self.paid: list[Tensor] = []

    def collect(self) -> TensorDict:
        return ended([2.0], [1], [True])

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        self.paid.append(batch["next", KEY].clone())
        return {"loss": 1.0}

    def state_dict(self) -> dict[str, Any]:
        return {"paid": list(self.paid)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.paid = state["paid"]


def test_its_learner_is_paid_and_a_state_goes_on() -> None:
    first, resumed = IPS(Kept(), rule()), IPS(Kept(), rule())
    assert first.checkpoint_every == 3
    assert first.update(first.collect())["loss"] == 1.0
    state = copy.deepcopy(first.state_dict())
    first.update(first.collect())
    resumed.load_state_dict(state)
    resumed.update(resumed.collect())
    assert torch.equal(first.learner.paid[1], resumed.learner.paid[1])
    assert torch.equal(first.reward.shares, resumed.reward.shares)


def _discovered(folder: Path, estimator: CategoricalMI | None) -> Path:
    """Save a run of discover with q, on the problem of these tests."""
    made = problem()
    base = made.base.fingerprint()
    adapter = Adapter(made.steering, estimator, CategoricalPrior(2), made.layout, "tiny", base)
    save_adapter(folder / "adapter", adapter)
    return folder


@pytest.mark.parametrize("kind", [PPOWithIPSConfig, SACWithIPSConfig])
def test_a_learner_is_made_that_is_paid_by_the_q_of_a_run(kind: Any, tmp_path: Path) -> None:
    made = problem()
    q = CategoricalMI(observation_size(made.env, [keys.HISTORY]), 2, hidden=(8,))
    small = {"minibatch": 8, "decisions": 4}
    if kind is SACWithIPSConfig:
        small |= {"prefill": 8, "buffer": 64, "nstep": 2}
    config = kind(outcomes=str(_discovered(tmp_path, q)), floor=-20.0, **small)
    learner = config.make(made)
    assert isinstance(learner, IPS)
    assert learner.learner.problem.reward_key == KEY
    assert not any(part.requires_grad for part in learner.reward.estimator.parameters())
    for _ in range(3):
        figures = learner.update(learner.collect())
    assert figures["share_fails"] < 1 / 3  # every episode succeeds, where nothing says otherwise
    assert {"loss_critic", "loss_qvalue"} & set(figures)


def test_a_run_without_q_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a run of discover with q"):
        PPOWithIPSConfig(outcomes=str(_discovered(tmp_path, None))).make(problem())


# --- the golden ticket


def test_what_comes_after_a_rows_first_episode_is_neither_counted_nor_paid_for() -> None:
    """Of 4 rows of 3, 7, 5 and 12 steps in chunks of 3."""
    env = problem().env
    batch = first_episodes(env, problem().steering, 0)
    steps = batch["next", keys.STEPS].squeeze(-1)
    assert steps.sum(1).tolist() == [3, 7, 5, 12]
    assert batch[MASK].sum(1).tolist() == [1, 3, 2, 4]


def test_each_row_plays_its_ticket_and_the_best_is_kept() -> None:
    made = TicketConfig(episodes=2).make(problem())
    assert isinstance(made, GoldenTicket)
    batch = made.collect()
    assert made.tickets.shape == (2, *made.steering.noise_shape)
    expected = made.tickets.repeat_interleave(2, 0).unsqueeze(1)
    assert torch.equal(batch[keys.ACTION], expected.expand_as(batch[keys.ACTION]))
    reward = batch["next", keys.REWARD].squeeze(-1).where(batch[MASK], 0.0)
    means = reward.sum(1).view(2, 2).mean(1)
    figures = made.update(batch)
    assert figures == {"ticket_return": float(means.max()), "tickets": 2.0}
    root = problem().env.reset()
    mean = made.steering.distribution(root).deterministic_sample
    best = made.tickets[int(means.argmax())]
    torch.testing.assert_close(mean, best.expand_as(mean), atol=1e-4, rtol=1e-4)
    assert float(made.steering.distribution(root).base_dist.scale.detach().max()) < 0.06


def test_a_worse_batch_changes_nothing_and_a_state_goes_on() -> None:
    first, resumed = (TicketConfig(episodes=1).make(problem()) for _ in range(2))
    first.update(first.collect())
    state = copy.deepcopy(first.state_dict())
    resumed.load_state_dict(state)
    batches = [made.collect() for made in (first, resumed)]
    assert torch.equal(batches[0][keys.ACTION], batches[1][keys.ACTION])
    batches[0]["next", keys.REWARD] -= 100.0
    first.update(batches[0])
    for name, value in state["steering"].items():
        assert torch.equal(first.steering.state_dict()[name], value)
    with pytest.raises(ConfigurationError, match="episodes that divide the 4 environments, got 3"):
        TicketConfig(episodes=3).make(problem())


# --- matching of groups


def matching(**options: Any) -> GroupMatching:
    return MatchingConfig(**({"group": 3, "epochs": 2, "minibatch": 3} | options)).make(problem())


def test_a_group_begins_alike_and_goes_on_otherwise() -> None:
    made = matching()
    batch = made.collect()
    assert batch.shape == (4, 3, 4)
    starts = batch[:, :, 0][keys.OBSERVATION]
    assert torch.equal(starts, starts[:, :1].expand_as(starts))
    noise = batch[keys.ACTION]
    assert not torch.equal(noise[:, 0], noise[:, 1])
    figures = made.update(batch)
    assert {"loss_matching", "groups", "noise_std"} == set(figures)
    assert figures["groups"] == 1.0
    assert figures["noise_std"] != 1.0


def test_a_state_of_matching_goes_on_bit_for_bit() -> None:
    first, resumed = matching(), matching()
    first.update(first.collect())
    state, generators = copy.deepcopy(first.state_dict()), generator_state()
    expected = first.update(first.collect())
    resumed.load_state_dict(state)
    set_generator_state(generators)
    assert resumed.update(resumed.collect()) == expected


def test_resets_that_do_not_repeat_are_refused() -> None:
    made = matching()
    made.problem.env.base_env.start_noise = 0.1  # from torch's generator, which no seed sets here
    with pytest.raises(ConfigurationError, match="seeded resets repeat, got starts that differ"):
        made.collect()


# --- options


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (PPOWithIPSConfig, "expected outcomes, the run folder of discover"),
        (lambda: SACWithIPSConfig(outcomes="x", least=0.0), "expected least above 0"),
        (lambda: PPOWithIPSConfig(outcomes="x", floor=float("inf")), "expected a finite floor"),
        (lambda: TicketConfig(episodes=0), "expected episodes of at least 1"),
        (lambda: MatchingConfig(group=1), "expected groups of at least 2 rollouts"),
        (lambda: MatchingConfig(beta=0.0), "expected beta above 0"),
    ],
)
def test_options_out_of_range_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make()


def test_they_are_registered_for_whoever_runs_in_the_folder_of_the_benchmarks() -> None:
    (found,) = distributions(path=[str(BENCHMARKS)])
    points = {point.name: point.value for point in found.entry_points}
    kinds = (MatchingConfig, PPOWithIPSConfig, SACWithIPSConfig, TicketConfig)
    assert points == {kind.name: f"support.rivals:{kind.__name__}" for kind in kinds}
    assert from_yaml(TicketConfig, to_yaml(TicketConfig(3)).split("\n", 1)[1]) == TicketConfig(3)
