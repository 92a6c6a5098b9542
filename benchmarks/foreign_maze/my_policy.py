"""What a user of modereg writes: the foreign folder as a policy that can be steered."""

import json
from pathlib import Path

from diffusers import DDIMScheduler
from train import FlatConditionUNet

from modereg_integrations.diffusers import DiffusersPolicy, Normalizer


def load():
    stats = json.loads(Path("policy/stats.json").read_text())
    parts = slice(0, 2), slice(2, 4), slice(4, 8)
    seen = [{name: row[part] for name, row in stats["observation"].items()} for part in parts]
    return DiffusersPolicy(
        FlatConditionUNet.from_pretrained("policy/denoiser"),
        DDIMScheduler.from_pretrained("policy/scheduler"),
        chunk_shape=(16, 2), num_inference_steps=10, global_cond=True,
        observation_keys=["achieved_goal", "desired_goal", "observation"],
        normalizer=Normalizer.from_statistics(seen, stats["action"], mode="meanstd"))
