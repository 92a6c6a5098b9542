"""Modes with names, merged, dropped and favoured; and a bandit that chooses between them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from modereg import MIReward
from modereg.checkpoints import Adapter, load_adapter, save_adapter
from modereg.errors import CheckpointError, ConfigurationError
from modereg.estimators import METRA, CategoricalMI
from modereg.layout import Layout
from modereg.modes import Mode, ModeSelector, edit_modes, find_mode, modes_of
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior, LearnedPrior, NormalPrior
from modereg.steering import SteeringPolicy

CODES, FEATURES = 4, 3
LAYOUT = Layout(12, execute=3, time_limit="terminates")


def adapter(prior: Any = CODES, estimator: Any = CategoricalMI) -> Adapter:
    """Return an adapter of four codes with a q that tells something."""
    q = None
    if estimator is not None:
        q = estimator(InputNoise(MLP(FEATURES, CODES, (8,)), 0.1), prior)
        prior = q.prior
    steering = SteeringPolicy(["observation"], 2, prior.feature_dim, (3,), hidden=(4,))
    return Adapter(steering, q, prior, LAYOUT, "base", "fingerprint", {"method": "cluster"})


def shares(of: Adapter) -> dict[str, float]:
    return {mode.name: round(mode.share, 6) for mode in modes_of(of)}


def rows(number: int = 64) -> TensorDict:
    return TensorDict(
        {"history": torch.randn(number, FEATURES), "latent": torch.arange(number) % CODES}, [number]
    )


def test_until_somebody_says_so_every_code_is_a_mode() -> None:
    assert modes_of(adapter()) == tuple(Mode(str(code), (code,), (0.25,)) for code in range(CODES))
    assert modes_of(adapter(CategoricalPrior(2), None))[1] == Mode("1", (1,), (0.5,))


def test_edits_by_hand() -> None:
    before = adapter()
    edited = edit_modes(
        before,
        names={3: "left", "1": "right"},
        merge=[("left", "2")],
        drop=[0],
        favour={"right": 2.0},
    )
    assert modes_of(edited) == (
        Mode("0", (0,), (0.0,)),
        Mode("right", (1,), (0.5,)),
        Mode("left", (2, 3), (0.25, 0.25)),
    )
    torch.testing.assert_close(edited.prior.probs, torch.tensor([0.0, 0.5, 0.25, 0.25]).double())
    assert edited.estimator is not None
    assert edited.estimator.prior is edited.prior
    assert edited.extra == {"method": "cluster", "names": {"right": 1, "left": 2}}
    assert shares(before) == {str(code): 0.25 for code in range(CODES)}  # which stays as it was
    again = edit_modes(edited, names={"left": "south"}, favour={"2": 3.0})
    assert shares(again) == {"0": 0.0, "right": 0.25, "south": 0.75}


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            {"drop": ["lef"]},
            "expected one of the modes 0, 1, left, 3, got 'lef'. Did you mean 'left'",
        ),
        ({"drop": [4]}, "expected one of the modes 0, 1, left, 3, got 4"),
        ({"names": {0: "left"}}, "expected another name for mode 0 than 'left', which one has"),
        ({"names": {0: "7"}}, "expected a word to name mode 0 by, got '7'; a number stands for"),
        ({"names": {0: " a"}}, "expected a word to name mode 0 by, got ' a'"),
        ({"names": {0: ""}}, "expected a word to name mode 0 by, got ''"),
        ({"names": {0: "a\n"}}, r"expected a word to name mode 0 by, got 'a\\n'"),
        ({"merge": [("left", "2")]}, "two or more different modes to merge, got 'left', '2'"),
        ({"merge": [("3",)]}, "two or more different modes to merge, got '3'"),
        ({"drop": [0, 1, 2, 3]}, "expected a mode that is left to draw, got all of them dropped"),
        (
            {"drop": [0], "favour": {0: 2.0}},
            "expected a mode that may be drawn, got '0', which was",
        ),
        ({"favour": {0: 0.0}}, "expected a positive factor to favour '0' by, got 0.0; drop a mode"),
        ({"favour": {0: math.inf}}, "expected a positive factor to favour '0' by, got inf"),
    ],
)
def test_what_cannot_be_is_refused(edit: dict[str, Any], sentence: str) -> None:
    named = edit_modes(adapter(), names={2: "left"})
    with pytest.raises(ConfigurationError, match=sentence):
        edit_modes(named, **edit)


def test_only_a_classifier_of_discrete_codes_can_be_merged() -> None:
    with pytest.raises(ConfigurationError, match="got one with METRA"):
        edit_modes(adapter(estimator=METRA), merge=[(0, 1)])
    with pytest.raises(ConfigurationError, match="got one with none"):
        edit_modes(adapter(CategoricalPrior(2), None), merge=[(0, 1)])
    with pytest.raises(ConfigurationError, match="expected an adapter of discrete codes"):
        modes_of(adapter(NormalPrior(2), None))
    assert shares(edit_modes(adapter(estimator=METRA), drop=[1]))["1"] == 0.0


def test_a_learned_prior_is_favoured_and_drops_nothing() -> None:
    learned = adapter(LearnedPrior(CODES))
    edited = edit_modes(learned, favour={0: 3.0})
    assert isinstance(edited.prior, LearnedPrior)
    assert shares(edited) == pytest.approx({"0": 0.5, "1": 1 / 6, "2": 1 / 6, "3": 1 / 6}, abs=1e-5)
    with pytest.raises(ConfigurationError, match="expected positive probabilities of 4 codes"):
        edit_modes(learned, drop=[0])


def test_an_edited_adapter_comes_back_as_it_was(tmp_path: Path) -> None:
    edited = edit_modes(
        adapter(), names={3: "left"}, merge=[(3, 1)], drop=[0], favour={"left": 2.0}
    )
    save_adapter(tmp_path, edited)
    loaded = load_adapter(tmp_path)
    assert modes_of(loaded) == modes_of(edited)
    assert loaded.prior is loaded.estimator.prior
    data = rows()[rows()["latent"] > 0]
    torch.testing.assert_close(loaded.estimator.log_ratio(data), edited.estimator.log_ratio(data))
    assert loaded.estimator.scale == pytest.approx(edited.estimator.scale, abs=1e-12)
    save_adapter(tmp_path / "again", loaded)
    assert load_adapter(tmp_path / "again").digest == loaded.digest


@pytest.mark.parametrize("names", [{"left": 4}, {"left": "1"}, ["left"], {"left": -1}])
def test_names_of_other_codes_are_refused(names: Any) -> None:
    with pytest.raises(CheckpointError, match=r"expected names of codes in \[0, 4\), got"):
        modes_of(replace(adapter(), extra={"names": names}))


def test_the_reward_is_of_the_modes() -> None:
    """By hand: q and p of a merged mode are sums, and H(p) is that of the modes."""
    edited = edit_modes(adapter(), merge=[(1, 3)], drop=[0])
    q, data = edited.estimator, rows()[rows()["latent"] > 0]
    probs, code = q.log_prob(data).exp(), data["latent"]
    both = probs[:, 1] + probs[:, 3]
    expected = torch.where(code == 2, probs[:, 2] * 3, both * 1.5).log()
    torch.testing.assert_close(q.log_ratio(data), expected)
    entropy = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    assert q.scale == pytest.approx(entropy)
    assert q.upper_limit == pytest.approx(math.log(3))
    transform = MIReward(q, LAYOUT, timing="dense")
    batch = TensorDict(
        latent=code,
        next={"history": data["history"], "reward": torch.zeros(len(code), 1)},
        batch_size=[len(code)],
    )
    paid = transform(batch)["next", "mi_reward"].squeeze(-1)
    limit = math.log(3) / entropy
    torch.testing.assert_close(paid, (expected / entropy).clamp(-limit, limit))
    with pytest.raises(ConfigurationError, match="from the prior's support"):
        transform(batch.set("latent", torch.zeros_like(code)))


@given(st.integers(0, 1000))
def test_dropped_codes_leave_every_figure_finite(seed: int) -> None:
    torch.manual_seed(seed)
    q = edit_modes(adapter(), drop=[0, 2]).estimator
    data = rows()[rows()["latent"] % 2 == 1]
    figures = q.figures(data)
    assert all(map(math.isfinite, figures.values())), figures
    assert q.scale == pytest.approx(math.log(2))
    assert torch.isfinite(q.log_ratio(data)).all()
    q.loss(data).backward()
    assert all(torch.isfinite(part.grad).all() for part in q.parameters())
    alone = edit_modes(adapter(), drop=[0, 1, 2]).estimator
    assert (alone.scale, alone.upper_limit) == (0.0, 0.0)


def test_the_gradient_of_merged_codes_tells_them_apart_no_more() -> None:
    """-log (q_1 + q_3): each logit of them is pushed in proportion to its own probability."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.3]], requires_grad=True)
    q = edit_modes(adapter(), merge=[(1, 3)]).estimator
    q.network.module = torch.nn.Identity()
    data = TensorDict({"history": logits, "latent": torch.tensor([3])}, [1])
    q.loss(data).backward()
    probs = logits.detach().softmax(-1)[0]
    both = probs[1] + probs[3]
    expected = probs - torch.tensor([0.0, 1.0, 0.0, 1.0]) * probs / both
    torch.testing.assert_close(logits.grad[0], expected)


def test_a_draw_of_a_merged_mode_is_one_of_its_codes() -> None:
    mode = Mode("left", (1, 3), (0.1, 0.3))
    assert (mode.code, mode.share) == (3, pytest.approx(0.4))
    drawn = mode.draw((1000, 2))
    assert drawn.shape == (1000, 2)
    assert drawn.unique().tolist() == [1, 3]
    assert float((drawn == 3).float().mean()) == pytest.approx(0.75, abs=0.05)
    with pytest.raises(ConfigurationError, match="got 'left', which was dropped"):
        replace(mode, weights=(0.0, 0.0)).draw(())


def test_a_mode_is_found_by_name_and_by_each_of_its_codes() -> None:
    modes = (Mode("0", (0,), (0.5,)), Mode("left", (1, 3), (0.25, 0.25)))
    assert {find_mode(modes, which).name for which in ("left", 1, "3", 3)} == {"left"}


MODES = tuple(Mode(name, (code,), (0.25,)) for code, name in enumerate(("a", "b", "c", "d")))


@pytest.mark.parametrize("strategy", ["thompson", "ucb"])
def test_the_regret_is_that_of_a_bandit(strategy: Any) -> None:
    """Of arms that succeed in .9, .6, .5 and .2: trying any at random would cost .35 a try."""
    rates, tries = np.array([0.6, 0.9, 0.5, 0.2]), 600
    regrets = []
    for seed in range(5):
        generator = np.random.default_rng(100 + seed)
        selector = ModeSelector(MODES, strategy=strategy, seed=seed)
        regret = np.zeros(tries)
        for number in range(tries):
            (mode,) = selector.episode(tries=1)
            regret[number] = rates.max() - rates[mode.code]
            selector.update(mode, generator.random() < rates[mode.code])
        assert regret[-100:].mean() < 0.03
        regrets.append(regret.sum())
    assert np.mean(regrets) < 0.1 * 0.35 * tries
    assert selector.means.argmax() == 1


@pytest.mark.parametrize("strategy", ["thompson", "ucb"])
def test_where_the_way_is_blocked_the_next_mode_is_tried(strategy: Any) -> None:
    selector = ModeSelector(MODES, strategy=strategy)
    for _ in range(20):
        selector.update("a", True)
    tried = []
    for mode in selector.episode(tries=3):
        tried.append(mode.name)
        selector.update(mode, False)
    assert tried[0] == "a"
    assert len(set(tried)) == 3
    assert selector.failures.sum() == 3
    assert len(list(selector.episode(tries=9))) == 4
    assert [mode.name for mode in ModeSelector(MODES[:1]).episode()] == ["a"]


def test_by_hand_the_posterior_and_its_quantile() -> None:
    """Beta(2, 1) has the density 2x, so its quantile is a root; Beta(1, 2) is its mirror image."""
    selector = ModeSelector(MODES[:2], strategy="ucb")
    selector.update(MODES[0], True)
    selector.update(1, False)
    assert selector.means.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert selector._scores() == pytest.approx([0.75**0.5, 1 - 0.25**0.5])


def test_a_selector_goes_on_where_it_was() -> None:
    """Its state is JSON."""
    first, second = ModeSelector(MODES, seed=1), ModeSelector(MODES, seed=2)

    def choices(selector: ModeSelector) -> list[str]:
        found = []
        for number in range(20):
            for mode in selector.episode():
                selector.update(mode, number % 3 == mode.code)
                found.append(mode.name)
        return found

    choices(first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert choices(first) == choices(second)
    with pytest.raises(ConfigurationError, match="expected the state of a selector between"):
        ModeSelector(MODES[:2]).load_state_dict(first.state_dict())


def test_a_selector_leaves_out_what_was_dropped() -> None:
    gone = replace(MODES[0], weights=(0.0,))
    selector = ModeSelector((gone, *MODES[1:]))
    assert [mode.name for mode in selector.modes] == ["b", "c", "d"]
    with pytest.raises(ConfigurationError, match="expected one of the modes b, c, d, got 'a'"):
        selector.update("a", True)


@pytest.mark.parametrize("options", [{"modes": ()}, {"strategy": "greedy"}, {"prior": (0.0, 1.0)}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected modes to choose between, a strategy"):
        ModeSelector(**({"modes": MODES} | options))
