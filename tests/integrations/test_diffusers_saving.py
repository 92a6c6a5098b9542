"""Saved policies: read by diffusers itself, bit-equal, and nothing in them is trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from modereg.errors import CheckpointError, StochasticSamplerError
from modereg_integrations.diffusers import (
    DiffusersPolicy,
    MLPDenoiser,
    register_denoiser,
)
from modereg_integrations.diffusers.plugin import PLUGIN


def fingerprint(policy: DiffusersPolicy) -> str:
    return policy.fingerprint()


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def policy() -> DiffusersPolicy:
    policy = DiffusersPolicy.untrained(
        observation_shapes={("agent", "state"): (3,), "goal": (2,)},
        chunk_shape=(4, 2),
        hidden=(16, 16),
        num_inference_steps=4,
        observation_steps=2,
        observation_octaves=1,
    )
    policy.fit_normalizer(torch.randn(50, 4, 2), torch.randn(50, 2, 3), torch.randn(50, 2, 2))
    return policy


def without_digest(folder: Path) -> None:
    """As somebody does who changes a folder on purpose."""
    options = json.loads((folder / "policy.json").read_text())
    del options["digest"]
    (folder / "policy.json").write_text(json.dumps(options))


def decode(policy: DiffusersPolicy) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shapes = [(3, 4, 2), (3, 2, 3), (3, 2, 2)]
    return policy.decode(*(torch.randn(shape, generator=generator) for shape in shapes))


def test_a_saved_policy_is_the_same_one(policy: DiffusersPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "new" / "policy")
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "new" / "policy")
    assert torch.equal(decode(loaded), decode(policy))
    assert loaded.in_keys == policy.in_keys
    assert fingerprint(loaded) == fingerprint(policy)
    assert not loaded.training
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["policy"]


def test_the_fingerprint_sees_parameters_statistics_and_options(policy: DiffusersPolicy) -> None:
    seen = {fingerprint(policy)}
    with torch.no_grad():
        policy.denoiser.output_layer.bias[0] += 1
    seen.add(fingerprint(policy))
    policy.normalizer.action_scale[0] += 1
    seen.add(fingerprint(policy))
    policy.num_inference_steps = 2
    seen.add(fingerprint(policy))
    policy.scheduler.register_to_config(clip_sample=True)
    seen.add(fingerprint(policy))
    assert len(seen) == 5


def test_diffusers_reads_denoiser_and_scheduler(policy: DiffusersPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    denoiser = MLPDenoiser.from_pretrained(
        tmp_path / "policy", subfolder="denoiser", low_cpu_mem_usage=False
    )
    for name, value in policy.denoiser.state_dict().items():
        assert torch.equal(denoiser.state_dict()[name], value)
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "policy", subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    rebuilt = DiffusersPolicy(
        denoiser,
        scheduler,
        chunk_shape=(4, 2),
        observation_keys=policy.observation_keys,
        num_inference_steps=4,
        normalizer=policy.normalizer,
        observation_steps=2,
    )
    assert torch.equal(decode(rebuilt), decode(policy))


def test_a_unet_and_double_precision_round_trip(tmp_path: Path) -> None:
    network = diffusers.UNet1DModel(
        in_channels=2,
        out_channels=2,
        down_block_types=("DownResnetBlock1D",),
        up_block_types=(),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        block_out_channels=(16,),
        time_embedding_type="positional",
        use_timestep_embedding=True,
        act_fn="mish",
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    policy = DiffusersPolicy(network, scheduler, chunk_shape=(8, 2), observation_keys=[]).double()
    policy.save_pretrained(tmp_path / "policy")
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "policy")
    noise = torch.randn(3, 8, 2, dtype=torch.float64)
    assert torch.equal(loaded.decode(noise), policy.decode(noise))
    assert loaded.normalizer is None


class Custom(ModelMixin, ConfigMixin):
    """A third party's denoiser."""

    @register_to_config
    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(gain))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.factor * sample


class Plain(nn.Module):
    """A denoiser without a configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(()))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.gain * sample


def save_of(denoiser: nn.Module, folder: Path) -> DiffusersPolicy:
    scheduler = diffusers.DDIMScheduler()
    policy = DiffusersPolicy(denoiser, scheduler, chunk_shape=(4, 2), observation_keys=[])
    policy.save_pretrained(folder)
    return policy


def test_a_denoiser_class_is_trusted_from_the_caller_or_the_registry(tmp_path: Path) -> None:
    saved = save_of(Custom(0.3), tmp_path / "custom")
    with pytest.raises(CheckpointError, match="not imported on a file's word"):
        DiffusersPolicy.from_pretrained(tmp_path / "custom")
    for loaded in (
        DiffusersPolicy.from_pretrained(tmp_path / "custom", denoiser=Custom),
        register_denoiser(Custom) and DiffusersPolicy.from_pretrained(tmp_path / "custom"),
    ):
        assert fingerprint(loaded) == fingerprint(saved)
    save_of(Plain(), tmp_path / "plain")
    network = Plain()
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "plain", denoiser=network)
    assert loaded.denoiser is network
    with pytest.raises(CheckpointError, match="pass denoiser=a module"):
        DiffusersPolicy.from_pretrained(tmp_path / "plain", denoiser=Plain)


def test_a_module_path_in_a_folder_is_not_executed(
    policy: DiffusersPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    (tmp_path / "evil_denoiser.py").write_text(
        f"open({str(tmp_path / 'executed')!r}, 'w').close()\nclass MLPDenoiser: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    without_digest(tmp_path / "policy")
    index = tmp_path / "policy" / "model_index.json"
    for part in ("denoiser", "scheduler"):
        content = json.loads(index.read_text())
        changed = {**content, part: ["evil_denoiser", "MLPDenoiser"]}
        index.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="evil_denoiser"):
            DiffusersPolicy.from_pretrained(tmp_path / "policy")
        index.write_text(json.dumps(content))
    assert not (tmp_path / "executed").exists()
    assert "evil_denoiser" not in sys.modules
    DiffusersPolicy.from_pretrained(tmp_path / "policy")


def test_pickled_weights_are_refused(policy: DiffusersPolicy, tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    folder = tmp_path / "policy"
    policy.save_pretrained(folder)
    (folder / "denoiser" / WEIGHTS).unlink()
    torch.save(Exploit(), folder / "denoiser" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        DiffusersPolicy.from_pretrained(folder)
    torch.save(Exploit(), folder / "denoiser" / WEIGHTS)
    with pytest.raises(CheckpointError, match="is damaged"):
        DiffusersPolicy.from_pretrained(folder)
    assert not (tmp_path / "executed").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: truncate(folder / "denoiser" / WEIGHTS), "is damaged"),
    (lambda folder: truncate(folder / "normalizer" / WEIGHTS), "is damaged"),
    (
        lambda folder: flip(folder / "denoiser" / WEIGHTS),
        "weights or options are not those that were saved",
    ),
    (
        lambda folder: flip(folder / "normalizer" / WEIGHTS),
        "weights or options are not those that were saved",
    ),
    (lambda folder: truncate(folder / "model_index.json"), "a damaged file"),
    (lambda folder: truncate(folder / "policy.json"), "a damaged file"),
    (lambda folder: truncate(folder / "denoiser" / "config.json"), "a damaged file"),
    (lambda folder: truncate(folder / "scheduler" / "scheduler_config.json"), "a damaged file"),
    (lambda folder: (folder / "policy.json").write_text("[]"), "expected an object"),
    (lambda folder: (folder / "policy.json").write_text('{"format": 2}'), "is damaged"),
    (lambda folder: (folder / "policy.json").write_text('{"format": 99}'), "of format 99, not 2"),
    (lambda folder: (folder / "policy.json").unlink(), "found none"),
    (
        lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text(
            '{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}'
        ),
        "is damaged",
    ),
    (lambda folder: (folder / "normalizer" / "config.json").write_text("{}"), "is damaged"),
    (lambda folder: (folder / "denoiser" / "config.json").write_text("{}"), "is damaged"),
    (
        lambda folder: os.replace(folder / "normalizer" / WEIGHTS, folder / "denoiser" / WEIGHTS),
        "normalizer has no diffusion_pytorch_model.safetensors",
    ),
    (
        lambda folder: (folder / "model_index.json").write_text(
            '{"_class_name": "StableDiffusionPipeline"}'
        ),
        "holds a StableDiffusionPipeline",
    ),
    (
        lambda folder: (folder / "model_index.json").write_text(
            '{"_class_name": "DiffusersPolicy", "denoiser": 3, "scheduler": 4}'
        ),
        "is damaged",
    ),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES)
def test_a_damaged_or_foreign_folder_is_refused(
    policy: DiffusersPolicy, tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    damage(tmp_path / "policy")
    with pytest.raises(CheckpointError, match=sentence) as caught:
        DiffusersPolicy.from_pretrained(tmp_path / "policy")
    assert "\n" not in str(caught.value)


def change(path: Path, name: str, value: Any = None, *, delete: bool = False) -> None:
    content = json.loads(path.read_text())
    if delete:
        del content[name]
    else:
        content[name] = value
    path.write_text(json.dumps(content))


PARTS = {
    "policy.json": None,
    "model_index.json": None,
    "denoiser/config.json": "denoiser",
    "scheduler/scheduler_config.json": "scheduler",
    "normalizer/config.json": "normalizer",
}


@pytest.mark.parametrize("part", PARTS)
def test_every_option_that_is_deleted_or_changed_is_found(
    policy: DiffusersPolicy, tmp_path: Path, part: str
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    path = tmp_path / "policy" / part
    written = path.read_text()
    for name in json.loads(written):
        if name == "digest":
            continue
        for options in ({"delete": True}, {"value": "another"}):
            change(path, name, **options)
            with pytest.raises(CheckpointError) as caught:
                DiffusersPolicy.from_pretrained(tmp_path / "policy")
            assert "\n" not in str(caught.value)
            path.write_text(written)
    assert DiffusersPolicy.from_pretrained(tmp_path / "policy")


HUGE: list[tuple[str, str, Any, str]] = [
    ("policy.json", "num_inference_steps", 10**9, "num_inference_steps to be 1 to 1000"),
    ("policy.json", "num_inference_steps", True, "num_inference_steps to be 1 to 1000"),
    ("policy.json", "chunk_shape", [10**9, 2], "chunk_shape to be"),
    ("policy.json", "chunk_shape", [4, 2.0], "chunk_shape to be"),
    ("policy.json", "observation_steps", 10**9, "observation_steps to be"),
    ("policy.json", "observation_keys", "goal", "observation_keys to be a list of keys"),
    ("policy.json", "timesteps", [1.0] * 2000, "timesteps to be null or up to 1000 numbers"),
    ("policy.json", "surprise", 1, "differs in ..surprise"),
    ("denoiser/config.json", "observation_octaves", 1e9, "numbers up to 1000000"),
    ("denoiser/config.json", "observation_octaves", 900_000, "of another module"),
    ("denoiser/config.json", "hidden", [900_000, 900_000], "of another module"),
    ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9, "from 1 to 100000"),
    ("scheduler/scheduler_config.json", "num_train_timesteps", "128", "from 1 to 100000"),
    ("normalizer/config.json", "observation_shapes", [[10**5, 10**5]], "expected shapes"),
    ("normalizer/config.json", "action_dim", 900_000, "of another module"),
    ("normalizer/config.json", "mode", "whiten", "expected mode"),
    ("model_index.json", "scheduler", ["diffusers", "UNet1DModel"], "none of diffusers'"),
]


@pytest.mark.parametrize(("part", "name", "value", "sentence"), HUGE)
def test_types_and_sizes_are_checked_where_somebody_took_the_digest_out(
    policy: DiffusersPolicy, tmp_path: Path, part: str, name: str, value: Any, sentence: str
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    without_digest(tmp_path / "policy")
    change(tmp_path / "policy" / part, name, value)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        DiffusersPolicy.from_pretrained(tmp_path / "policy")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_weights_that_diffusers_saved_again_in_shards_are_the_ones_that_count(
    policy: DiffusersPolicy, tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    policy.save_pretrained(folder)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.add_(0.1)
    policy.denoiser.save_pretrained(folder / "denoiser", max_shard_size="2KB")
    assert (folder / "denoiser" / WEIGHTS).exists()  # the old ones
    with pytest.raises(CheckpointError, match="remove 'digest' from policy.json"):
        DiffusersPolicy.from_pretrained(folder)
    without_digest(folder)
    assert torch.equal(decode(DiffusersPolicy.from_pretrained(folder)), decode(policy))
    index = folder / "denoiser" / f"{WEIGHTS}.index.json"
    written = json.loads(index.read_text())
    shard = folder / "denoiser" / sorted(set(written["weight_map"].values()))[0]
    shard.rename(folder / "away")
    with pytest.raises(CheckpointError, match="is damaged"):
        DiffusersPolicy.from_pretrained(folder)
    (folder / "away").rename(shard)
    first = next(iter(written["weight_map"]))
    for places in ({first: "../away"}, [1], {first: 3}):
        index.write_text(json.dumps(written | {"weight_map": places}))
        with pytest.raises(CheckpointError, match="expected names of files beside it"):
            DiffusersPolicy.from_pretrained(folder)
    index.write_text(json.dumps(written | {"weight_map": {first: shard.name}}))
    with pytest.raises(CheckpointError, match="do not hold what"):
        DiffusersPolicy.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn:DeprecationWarning")
def test_another_scheduler_can_be_given_and_a_stochastic_one_is_named(
    policy: DiffusersPolicy, tmp_path: Path
) -> None:
    policy.save_pretrained(tmp_path / "policy")
    euler = diffusers.EulerDiscreteScheduler.from_config(policy.scheduler.config)
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "policy", scheduler=euler)
    assert isinstance(loaded.scheduler, diffusers.EulerDiscreteScheduler)
    assert fingerprint(loaded) != fingerprint(policy)
    with pytest.raises(StochasticSamplerError, match="DDPMScheduler"):
        DiffusersPolicy.from_pretrained(
            tmp_path / "policy", scheduler=diffusers.DDPMScheduler.from_config(euler.config)
        )


def test_saving_replaces_a_policy_and_nothing_else(
    policy: DiffusersPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="not overwritten"):
        policy.save_pretrained(foreign)
    folder = tmp_path / "policy"
    policy.save_pretrained(folder)
    with torch.no_grad():
        policy.denoiser.output_layer.bias += 1
    policy.save_pretrained(folder)
    assert fingerprint(DiffusersPolicy.from_pretrained(folder)) == fingerprint(policy)
    before = fingerprint(policy)
    with torch.no_grad():
        policy.denoiser.output_layer.bias += 1
    monkeypatch.setattr(policy.scheduler, "to_json_string", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        policy.save_pretrained(folder)
    assert fingerprint(DiffusersPolicy.from_pretrained(folder)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "policy"]


def test_the_plugin_knows_its_folders(policy: DiffusersPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    assert PLUGIN.can_load(tmp_path / "policy")
    assert not PLUGIN.can_load(tmp_path)
    (tmp_path / "model_index.json").write_text("no JSON")
    assert not PLUGIN.can_load(tmp_path)
    assert torch.equal(decode(PLUGIN.load(tmp_path / "policy")), decode(policy))
    fresh = PLUGIN.untrained(observation_shapes={"observation": (3,)}, chunk_shape=(4, 2))
    assert isinstance(fresh, DiffusersPolicy)


def test_the_plugin_imports_neither_torch_nor_diffusers() -> None:
    script = (
        "import sys, modereg_integrations.diffusers.plugin as plugin\n"
        "assert plugin.PLUGIN and not plugin.PLUGIN.can_load('nowhere')\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules), 'imported too early'\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
