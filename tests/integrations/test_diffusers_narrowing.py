from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modereg import keys, plugins
from modereg.errors import ConfigurationError
from modereg_integrations.diffusers import DiffusersPolicy, MLPDenoiser
from modereg_integrations.diffusers.narrowing import without_observation


def _policy(octaves: int, index: int, **options: int) -> DiffusersPolicy:
    """Return a policy that reads an embedding at some place among its observations, fitted."""
    torch.manual_seed(0)
    names = ["position", ("agent", "speed")]
    names.insert(index, keys.MODE_EMBEDDING)
    shapes = {"position": (2,), ("agent", "speed"): (2, 1), keys.MODE_EMBEDDING: (3,)}
    policy = DiffusersPolicy.untrained(
        observation_shapes={name: shapes[name] for name in names},
        chunk_shape=(4, 2),
        hidden=(16, 16),
        num_inference_steps=2,
        num_train_timesteps=20,
        observation_octaves=octaves,
        **options,
    )
    data = [3.0 + torch.rand(9, *shapes[name]) for name in names]
    policy.fit_normalizer(torch.rand(9, 4, 2), *data)
    return policy.eval()


@pytest.mark.parametrize("octaves", [0, 2])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_it_decodes_as_with_zeros_saved_and_loaded(
    octaves: int, index: int, tmp_path: Path
) -> None:
    policy = _policy(octaves, index)
    found = without_observation(policy, keys.MODE_EMBEDDING)
    assert found.observation_keys == ["position", ("agent", "speed")]
    noise, place, speed = torch.randn(7, 4, 2), torch.rand(7, 2), torch.rand(7, 2, 1)
    values = [place, speed]
    values.insert(index, torch.zeros(7, 3))
    expected = policy.decode(noise, *values)
    torch.testing.assert_close(found.decode(noise, place, speed), expected, atol=1e-5, rtol=1e-5)
    found.save_pretrained(tmp_path / "policy")
    loaded = plugins.resolve_policy(str(tmp_path / "policy"))
    torch.testing.assert_close(loaded.decode(noise, place, speed), expected, atol=1e-5, rtol=1e-5)
    assert policy.observation_keys[index] == keys.MODE_EMBEDDING, "the policy itself stays"


def test_it_shares_no_weights() -> None:
    policy = _policy(1, 2)
    before = [part.clone() for part in policy.parameters()]
    for part in without_observation(policy, keys.MODE_EMBEDDING).parameters():
        part.data += 1.0
    for old, new in zip(before, policy.parameters()):
        assert torch.equal(old, new)


def test_other_policies_are_refused() -> None:
    policy = _policy(0, 2)
    with pytest.raises(ConfigurationError, match="reads 'camera' and other observations"):
        without_observation(policy, "camera")
    with pytest.raises(ConfigurationError, match="of one step"):
        without_observation(_policy_of_history(), "position")
    alone = DiffusersPolicy(
        MLPDenoiser(2, 4, [2], hidden=[8]), policy.scheduler, chunk_shape=(4, 2)
    )
    with pytest.raises(ConfigurationError, match="normalizer"):
        without_observation(alone, keys.OBSERVATION)


def _policy_of_history() -> DiffusersPolicy:
    return DiffusersPolicy.untrained(
        observation_shapes={"position": (2,), "speed": (1,)},
        chunk_shape=(4, 2),
        hidden=(8,),
        observation_steps=2,
    )
