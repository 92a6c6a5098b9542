from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import Compose, TransformedEnv

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer
from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError
from modereg.rollouts import collect_episodes
from modereg.tasks import GaussianMixture
from modereg.testing import TinyPolicy
from modereg.transforms import ActionChunk, History, LatentConditioner, NoiseAction

CENTRES = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0], [0.0, 0.0]])


def _histories(size: int = 500, spread: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Straight paths from the origin to five places, four entries of two dimensions."""
    generator = torch.Generator().manual_seed(seed)
    modes = torch.arange(size) % len(CENTRES)
    share = torch.linspace(0, 1, 4)[:, None]
    paths = share * CENTRES[modes][:, None]
    return (paths + spread * torch.randn(paths.shape, generator=generator)).flatten(1), modes


def _as_data(features: Tensor) -> TensorDict:
    return TensorDict({keys.HISTORY: features}, [len(features)])


def _agreement(discoverer: ClusterModeDiscoverer, features: Tensor, modes: Tensor) -> float:
    """Share of the episodes that get the code which most episodes of their mode get."""
    codes = discoverer.log_prob(_as_data(features)).argmax(-1)
    majority = torch.stack([codes[modes == m].mode().values for m in range(len(CENTRES))])
    assert len(majority.unique()) == len(CENTRES)
    return float((codes == majority[modes]).float().mean())


@pytest.fixture(scope="module")
def fitted() -> ClusterModeDiscoverer:
    torch.manual_seed(0)
    discoverer = ClusterModeDiscoverer(8, 5, hidden=(32,), steps=200, history_length=4)
    discoverer.fit(_histories()[0])
    return discoverer


def test_clusters_become_the_classes_of_q() -> None:
    features, _ = _histories()
    discoverer = ClusterModeDiscoverer(8, 5, hidden=(32,), steps=200)
    metrics = discoverer.fit(features)
    assert metrics["num_codes"] == 5
    assert metrics["clustered_episodes"] == 500
    assert metrics["held_out_accuracy"] > 0.95
    assert metrics["silhouette"] > 0.6
    assert metrics["bound_share"] == pytest.approx(metrics["bound"] / math.log(5))
    assert metrics["bound_share"] > 0.9
    fresh, modes = _histories(seed=1)
    assert _agreement(discoverer, fresh, modes) > 0.95


def test_q_reads_the_beginning_of_a_history_too(fitted: ClusterModeDiscoverer) -> None:
    features, modes = _histories(seed=2)
    early = features.view(-1, 4, 2)[:, [0, 1, 2, 2]].flatten(1)  # the third entry repeated
    assert _agreement(fitted, early, modes) > 0.9
    sure = []
    for length in (4, 0):  # told that it is a history, or not
        options = dict(history_length=length, along_path=False)
        discoverer = ClusterModeDiscoverer(8, 5, hidden=(32,), steps=200, **options)
        discoverer.fit(_histories()[0])
        sure.append(discoverer.log_prob(_as_data(early)).amax(-1).exp().mean())
    assert sure[0] > sure[1] - 0.02


@pytest.mark.parametrize("along_path", [True, False])
def test_speed_tells_no_history_apart_unless_asked_to(along_path: bool) -> None:
    features, modes = _histories(spread=0.02)
    options = dict(history_length=4, along_path=along_path)
    discoverer = ClusterModeDiscoverer(8, 5, hidden=(32,), steps=200, **options)
    discoverer.fit(features)
    slow = (CENTRES[modes][:, None] * torch.linspace(0, 1, 4)[:, None] ** 2).flatten(1)
    even = (CENTRES[modes][:, None] * torch.linspace(0, 1, 4)[:, None]).flatten(1)
    found = [discoverer.log_prob(_as_data(paths)) for paths in (slow, even)]
    assert torch.allclose(*found, atol=1e-4) is along_path


def test_it_is_frozen_once_it_is_fitted(fitted: ClusterModeDiscoverer) -> None:
    assert fitted.fitted
    assert not any(parameter.requires_grad for parameter in fitted.parameters())
    before = {name: value.clone() for name, value in fitted.state_dict().items()}
    fitted.observe(TensorDict({"next": {"done": torch.ones(9, 1, dtype=torch.bool)}}, [9]))
    assert fitted.update() == {}
    after = fitted.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_state_dict_restores_it(fitted: ClusterModeDiscoverer) -> None:
    other = ClusterModeDiscoverer(8, 5, hidden=(32,))
    assert not other.fitted
    other.load_state_dict(fitted.state_dict())
    features = _as_data(_histories(seed=3)[0])
    assert other.fitted
    assert torch.equal(other.log_prob(features), fitted.log_prob(features))
    assert torch.equal(other.centroids, fitted.centroids)
    assert other.estimator.network.module.std == fitted.estimator.network.module.std
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_the_same_seed_gives_the_same() -> None:
    features, found = _histories()[0], []
    for _ in range(2):
        torch.manual_seed(4)
        discoverer = ClusterModeDiscoverer(8, 5, hidden=(8,), steps=20, seed=3)
        discoverer.fit(features)
        found.append(discoverer.log_prob(_as_data(features)))
    assert torch.equal(*found)


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_the_noise_is_in_units_of_the_features(unit: float) -> None:
    """Half the distance of neighbours, the centre's here, spread over eight dimensions."""
    features = _histories(spread=0.02)[0] * unit
    discoverer = ClusterModeDiscoverer(8, 5, hidden=(32,), steps=150)
    metrics = discoverer.fit(features)
    ends = torch.linspace(0, 1, 4).square().sum().sqrt() * 2.0 * unit
    assert metrics["input_noise"] == pytest.approx(0.5 * float(ends) / 8**0.5, rel=0.05)
    assert metrics["held_out_accuracy"] > 0.9
    assert discoverer.estimator.network.module.std == pytest.approx(metrics["input_noise"])
    given = ClusterModeDiscoverer(8, 5, hidden=(8,), steps=1, noise=0.3)
    assert given.fit(features)["input_noise"] == pytest.approx(0.3)


def test_only_successes_are_clustered_where_there_are_enough() -> None:
    features, modes = _histories(600)
    success = modes < 4  # the episodes that stay at the origin fail
    options = dict(hidden=(16,), steps=100)
    chosen = ClusterModeDiscoverer(8, 4, **options)
    metrics = chosen.fit(features, success)
    assert (metrics["only_successes"], metrics["clustered_episodes"]) == (1.0, 480)
    distance = torch.cdist(chosen.centroids[:, -2:], CENTRES[:4]).amin(1)
    assert float(distance.max()) < 0.1
    with pytest.warns(UserWarning, match="at least 481 successful episodes to cluster, got 480 of"):
        few = ClusterModeDiscoverer(8, 5, min_successes=481, **options).fit(features, success)
    assert (few["only_successes"], few["clustered_episodes"]) == (0.0, 600)
    assert few["successes_short"] == pytest.approx(1 / 481)
    assert "successes_short" not in metrics
    capped = ClusterModeDiscoverer(8, 4, max_episodes=200, **options).fit(features, success)
    assert capped["clustered_episodes"] == 200


def test_the_number_of_codes_is_chosen_or_given() -> None:
    features, modes = _histories()
    options = dict(hidden=(16,), steps=100)
    discoverer, metrics = ClusterModeDiscoverer.from_episodes(features, **options)
    assert metrics["suggested_modes"] == 5
    assert discoverer.num_codes == metrics["num_codes"] == 5
    codes = discoverer.log_prob(_as_data(features)).argmax(-1)
    owners = {int(modes[codes == code].mode().values) for code in codes.unique()}
    assert owners == set(range(5))
    given, metrics = ClusterModeDiscoverer.from_episodes(features, num_codes=3, **options)
    assert given.num_codes == 3
    assert "suggested_modes" not in metrics


def test_no_more_codes_are_chosen_than_features_differ() -> None:
    features = CENTRES[:3].repeat(40, 1)
    discoverer, metrics = ClusterModeDiscoverer.from_episodes(features, hidden=(8,), steps=5)
    assert metrics["suggested_modes"] == discoverer.num_codes == 3


def test_it_may_be_fitted_again() -> None:
    features, modes = _histories()
    discoverer = ClusterModeDiscoverer(8, 5, hidden=(32,), steps=200)
    discoverer.fit(features.flip(-1) + 3)
    discoverer.fit(features)
    assert _agreement(discoverer, features, modes) > 0.95
    assert not any(parameter.requires_grad for parameter in discoverer.parameters())


def test_observe_gathers_finished_episodes_and_update_fits_once() -> None:
    features, modes = _histories(300)
    done = torch.zeros(300, 2, 1, dtype=torch.bool)
    done[:, 1] = True
    rollout = TensorDict(
        {
            "next": {
                keys.HISTORY: torch.stack([torch.full_like(features, 9.0), features], 1),
                "done": done,
                keys.SUCCESS: (modes < 4)[:, None, None].expand(300, 2, 1),
            }
        },
        [300, 2],
    )
    discoverer = ClusterModeDiscoverer(8, 4, hidden=(16,), steps=50)
    assert discoverer.update() == {}
    for part in (rollout[:150], rollout[150:]):
        assert discoverer(part) is part
    metrics = discoverer.update()
    assert (metrics["clustered_episodes"], metrics["only_successes"]) == (240, 1.0)
    assert discoverer.update() == {}


def test_through_an_environment() -> None:
    env = TransformedEnv(
        GaussianMixture(256, max_delta=0.2, max_steps=8),
        Compose(
            ActionChunk(2, horizon=4),
            NoiseAction(TinyPolicy(2, scale=0.4)),
            History([keys.OBSERVATION], length=4),
            LatentConditioner(3),
        ),
    )
    options = dict(hidden=(32,), steps=150, noise=0.05, success_key=None)
    discoverer = ClusterModeDiscoverer(10, 3, **options)
    discoverer.observe(env.rollout(8, break_when_any_done=False))
    metrics = discoverer.update()
    assert metrics["clustered_episodes"] >= 256
    final = collect_episodes(env, 64, max_decisions=4, final=[keys.HISTORY]).final
    log_q = discoverer.log_prob(final)
    assert torch.allclose(log_q.exp().sum(-1), torch.ones(64))
    nearest = torch.cdist(final.get(keys.HISTORY), discoverer.centroids).argmin(-1)
    assert float((log_q.argmax(-1) == nearest).float().mean()) > 0.6


def test_errors() -> None:
    features, _ = _histories(60)
    with pytest.raises(ConfigurationError, match="history_length divides, got 8 and 3"):
        ClusterModeDiscoverer(8, 5, history_length=3)
    with pytest.raises(ConfigurationError, match="at least 5 episodes for 5 clusters, got 3"):
        ClusterModeDiscoverer(8, 5).fit(features[:3])
    with pytest.raises(ConfigurationError, match="5 distinct behaviours to cluster, found 1"):
        ClusterModeDiscoverer(8, 5).fit(torch.ones(50, 8))
    features[3] = torch.inf
    with pytest.raises(NonFiniteError, match="NaN or an infinity"):
        ClusterModeDiscoverer(8, 5).fit(features)
    ended = TensorDict({"next": {"done": torch.ones(4, 1, dtype=torch.bool)}}, [4])
    with pytest.raises(KeyMismatchError, match="the discoverer reads 'history'"):
        ClusterModeDiscoverer(8, 5).observe(ended)


def test_one_behaviour_is_said_to_be_one() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((400, 8), generator=generator)
    with pytest.warns(UserWarning, match="one behaviour.*loses nothing; give num_codes"):
        discoverer, metrics = ClusterModeDiscoverer.from_episodes(features, hidden=(8,), steps=5)
    assert (metrics["suggested_modes"], discoverer.num_codes) == (1, 2)
