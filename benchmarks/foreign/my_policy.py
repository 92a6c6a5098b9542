"""What the new user writes: the foreign folder as a policy that modereg can steer."""

import json
from pathlib import Path

from diffusers import DPMSolverMultistepScheduler, UNet1DModel

from modereg import as_generative_policy
from modereg_integrations.diffusers import DiffusersPolicy, Normalizer


def load():
    stats = json.loads(Path("policy/stats.json").read_text())
    parts = (slice(0, 2), slice(2, 8))  # agent_pos and environment_state
    seen = [{name: row[part] for name, row in stats["observation"].items()} for part in parts]
    return DiffusersPolicy(
        UNet1DModel.from_pretrained("policy/unet"),
        DPMSolverMultistepScheduler.from_pretrained("policy/scheduler"),
        chunk_shape=(16, 2), num_inference_steps=8, observation_steps=2,
        observation_keys=["agent_pos", "environment_state"],
        normalizer=Normalizer.from_statistics(seen, stats["action"]))



def quiet(heard):
    """The policy where a part of its noise is heard: what few would ask for."""
    policy = load()
    return as_generative_policy(
        lambda noise, *observed: policy.decode(heard * noise, *observed),
        in_keys=policy.observation_keys, chunk_shape=(16, 2), observation_steps=2,
        name="quiet", version=str(heard))


def load_fixed():
    return quiet(0.0)


def load_narrow():
    return quiet(0.1)
