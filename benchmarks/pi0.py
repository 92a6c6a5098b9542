"""What PI0Policy costs beside transformers' own sampler, for several noises of one observation.

    python benchmarks/pi0.py --json benchmarks/results/pi0.json
    python benchmarks/pi0.py --smoke

The model is random, of PI0's shape in small: an image of 64 tokens and an instruction of 16, an
action expert of half the width, chunks of 16 actions padded to 32 dimensions, 10 Euler steps. Each
row is the median over rounds taken in turns, CPU time on one thread, without gradients:

- ``over_sampler``: decode of all noises of all observations over one call of ``sample_actions``,
  which is given each observation as often as it has noises. Promised: at most 0.7 for 8 noises of
  one observation.
- ``over_calls``: the same decode over one call of ``sample_actions`` for each noise.
- ``max_error``: largest difference to ``sample_actions``, float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from support.results import write_results
from support.timing import measure
from torch import Tensor

from modereg_integrations.transformers import PI0Policy

IMAGE, PATCH, WORDS, IMAGE_TOKEN, VOCABULARY = 112, 14, 16, 512, 512
SAMPLER_BOUND = 0.7


def make_model(width: int, layers: int) -> Any:
    """Make a random PI0 with a vision-language model of some width and number of layers."""
    torch.manual_seed(0)
    size = {"num_hidden_layers": layers, "num_attention_heads": 4}
    tower = {"hidden_size": width, "intermediate_size": 4 * width, **size}
    gemma = {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": width // 4}
    config = transformers.PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {**tower, **gemma, "vocab_size": VOCABULARY},
            "vision_config": {
                **tower,
                "model_type": "siglip_vision_model",
                "image_size": IMAGE,
                "patch_size": PATCH,
                "vision_use_head": False,
            },
            "projection_dim": width,
            "image_token_id": IMAGE_TOKEN,
        },
        dit_config={**size, **gemma, "hidden_size": width // 2, "intermediate_size": 2 * width},
        chunk_size=16,
    )
    return transformers.PI0ForConditionalGeneration(config).eval().requires_grad_(False)


def alternatives(policy: PI0Policy, rows: int, noises: int) -> list[Callable[[], Tensor]]:
    """Make the three computations: decode, one call of the sampler, one call for each noise."""
    image = torch.rand(rows, 3, IMAGE, IMAGE) * 2 - 1
    words = torch.randint(3, VOCABULARY, (rows, WORDS))
    state, noise = torch.randn(rows, 32), policy.draw_noise([rows, noises])
    places = torch.full((rows, (IMAGE // PATCH) ** 2), IMAGE_TOKEN)
    given = {
        "state": state,
        "input_ids": torch.cat([places, words], 1),
        "pixel_values": image[:, None],
        "attention_mask": torch.ones(rows, places.shape[1] + WORDS, dtype=torch.long),
        "pixel_attention_mask": torch.ones(rows, 1, dtype=torch.bool),
    }
    repeated = {name: value.repeat_interleave(noises, 0) for name, value in given.items()}

    def sampler() -> Tensor:
        chunk = policy.model.sample_actions(noise=noise.flatten(0, 1), **repeated)
        return chunk.unflatten(0, (rows, noises))

    def calls() -> Tensor:
        chunks = [policy.model.sample_actions(noise=part, **given) for part in noise.unbind(1)]
        return torch.stack(chunks, 1)

    return [lambda: policy.decode(noise, image, words, state), sampler, calls]


def row(policy: PI0Policy, rows: int, noises: int, rounds: int, minimum: float) -> dict[str, Any]:
    """Measure one combination."""
    functions = alternatives(policy, rows, noises)
    error = float((functions[0]() - functions[1]()).abs().max())
    decode, sampler, calls = measure(functions, rounds, minimum)
    return {
        "observations": rows,
        "noises": noises,
        "over_sampler": round(float((decode / sampler).median()), 3),
        "over_calls": round(float((decode / calls).median()), 3),
        "milliseconds": round(1e3 * float(decode.median()), 2),
        "max_error": f"{error:.1e}",
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write one object with rows here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    width, layers, rounds, minimum = (64, 2, 3, 0.01) if options.smoke else (256, 6, 9, 0.1)
    policy = PI0Policy(make_model(width, layers))
    rows = []
    with torch.no_grad():
        for observations, noises in [(1, 8)] if options.smoke else [(1, 1), (1, 8), (4, 8)]:
            rows.append(row(policy, observations, noises, rounds, minimum))
            print(rows[-1], flush=True)
    versions = {"transformers": transformers.__version__, "sampler_bound": SAMPLER_BOUND}
    write_results(options.json, "PI0 beside transformers' sampler", {**versions, "rows": rows})


if __name__ == "__main__":
    main()
