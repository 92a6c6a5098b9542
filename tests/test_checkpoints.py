from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tensordict import TensorDict
from torch import nn

from modereg import keys
from modereg.checkpoints import CONFIG, MODEL, Adapter, _digest, load_adapter, save_adapter
from modereg.errors import CheckpointError, ConfigurationError
from modereg.estimators import KINDS, CategoricalMI, ContrastiveMI
from modereg.layout import Layout
from modereg.networks import MLP, InputNoise
from modereg.policies import DenoisingChain, embed_codes
from modereg.priors import CategoricalPrior, LearnedPrior
from modereg.residual import ChunkResidual, StepResidual
from modereg.steering import SteeringPolicy
from modereg.testing import TinyPolicy
from tests.policies.made import SHAPE, changed, data, flow

PROBS = torch.tensor([0.5, 0.25, 0.25, 0.0])
PLACE = ("agent", "position")
BASIS = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(0))).Q
LAYOUT = Layout(
    12,
    execute=3,
    offset=1,
    horizon=4,
    observation_steps=1,
    steering_keys=(PLACE, "time"),
    feature_keys=(PLACE,),
    feature_dims=(0, 1),
    noise_basis=BASIS,
)


def _steering() -> SteeringPolicy:
    network = MLP(3 + 4, 8, (16, 8), octaves=3, plain_features=4)
    network.features.fit(torch.randn(50, 3) * 3 + 1)
    policy = SteeringPolicy(
        [PLACE, "time"],
        3,
        4,
        (4, 2),
        network=network,
        latent_key=("code", "one_hot"),
        action_key=("agent", "noise"),
        mean_bound=1.5,
        log_std_range=(-2.0, 0.5),
    )
    policy.set_std(0.4)
    with torch.no_grad():
        policy.head.log_std.weight.normal_(0, 0.1)
    return policy


def _adapter(estimator: bool = True) -> Adapter:
    torch.manual_seed(1)
    prior = CategoricalPrior(PROBS)
    q = None
    if estimator:
        network = InputNoise(MLP(6, 4, (8,)), 0.125)
        network.network.features.fit(torch.randn(20, 6))
        q = CategoricalMI(network, prior, in_keys=[("agent", "path")], latent_key=("code", "z"))
    return Adapter(
        steering=_steering(),
        estimator=q,
        prior=prior,
        layout=LAYOUT,
        base_reference="runs/base/policy",
        base_fingerprint=TinyPolicy(2).fingerprint(),
        extra={"method": "cluster", "env_steps": 12},
    )


def _data() -> TensorDict:
    torch.manual_seed(2)
    return TensorDict(
        {
            "agent": {"position": torch.randn(9, 2), "path": torch.randn(9, 6)},
            "time": torch.rand(9, 1),
            "code": {"one_hot": torch.eye(4)[torch.arange(9) % 4], "z": torch.arange(9) % 3},
        },
        [9],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", _adapter())
    return tmp_path / "adapter"


def test_what_is_loaded_steers_and_infers_like_what_was_saved(folder: Path) -> None:
    saved, loaded, data = _adapter(), load_adapter(folder, TinyPolicy(2)), _data()
    first, second = saved.steering.distribution(data), loaded.steering.distribution(data)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.stddev, second.stddev)
    assert first.stddev.unique().numel() > 1
    assert loaded.steering.in_keys == saved.steering.in_keys
    assert loaded.steering.out_keys == saved.steering.out_keys
    assert saved.estimator is not None
    assert loaded.estimator is not None
    assert torch.equal(saved.estimator.log_ratio(data), loaded.estimator.log_ratio(data))
    torch.manual_seed(3)
    noisy = saved.estimator.loss(data)
    torch.manual_seed(3)
    assert torch.equal(noisy, loaded.estimator.loss(data))
    assert torch.equal(loaded.prior.probs, saved.prior.probs)
    assert loaded.extra == saved.extra
    assert loaded.layout == LAYOUT
    assert loaded.layout.steering_keys == (PLACE, "time")
    assert torch.equal(loaded.layout.noise_basis, BASIS)
    assert loaded.base_reference == "runs/base/policy"


def test_a_folder_has_json_and_safetensors_and_no_base(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, MODEL]
    config = json.loads((folder / CONFIG).read_text())
    assert config["base"]["fingerprint"] == TinyPolicy(2).fingerprint()
    assert config["prior"]["probs"] == PROBS.tolist()
    assert (folder / MODEL).stat().st_size < 30_000


def test_without_an_inference_model(tmp_path: Path) -> None:
    save_adapter(tmp_path, _adapter(estimator=False))
    loaded = load_adapter(tmp_path)
    assert loaded.estimator is None
    assert torch.equal(
        loaded.steering.distribution(_data()).mean, _steering_mean(_adapter(estimator=False))
    )


def _steering_mean(adapter: Adapter) -> torch.Tensor:
    return adapter.steering.distribution(_data()).mean


def test_a_residual_comes_back_as_it_was(tmp_path: Path) -> None:
    saved, data = _adapter(), _data()
    directions = torch.randn(3, 8)
    saved.residual = ChunkResidual.at_zero(
        [PLACE], 2, 4, directions, bound=0.7, offset=1, hidden=(8,), latent_key=("code", "one_hot")
    )
    torch.nn.init.normal_(saved.residual.network.head.network.layers[-1].weight)
    saved.residual.network.head.steer_only(torch.tensor([True, False, True, True]), 1.0)
    save_adapter(tmp_path, saved)
    loaded = load_adapter(tmp_path, TinyPolicy(2)).residual
    assert loaded is not None
    chunk = torch.randn(9, 6, 2)
    assert torch.equal(loaded(data, chunk), saved.residual(data, chunk))
    assert not torch.equal(loaded(data, chunk), chunk)
    saved.residual = None
    save_adapter(tmp_path, saved)
    assert load_adapter(tmp_path).residual is None


@pytest.mark.parametrize(("steps", "rank"), [(5, None), (2, None), (5, 2)])
def test_trained_weights_come_back_beside_their_base_alone(
    steps: int, rank: int | None, tmp_path: Path
) -> None:
    base, rows, noise = flow(), data(3), torch.randn(3, *SHAPE)
    chain = changed(DenoisingChain(base, steps, rank=rank))
    saved = replace(_adapter(), tuned=chain.weights(), base_fingerprint=base.fingerprint())
    save_adapter(tmp_path, saved)
    loaded = load_adapter(tmp_path, base).chain(base)
    assert loaded is not None
    assert torch.equal(loaded.decode_from(rows, noise), chain.decode_from(rows, noise))
    assert not any(value.requires_grad for value in loaded.parameters())
    with pytest.raises(CheckpointError, match="steers the base policy .* with fingerprint"):
        load_adapter(tmp_path, flow(num_steps=6))
    with pytest.raises(CheckpointError, match="expected the weights of FlowPolicy, got others"):
        load_adapter(tmp_path).chain(flow(velocity=nn.Linear(30, 20)))
    assert _adapter().chain(base) is None


@pytest.mark.parametrize(("steps", "rank"), [(5, None), (2, None), (5, 2)])
def test_a_denoiser_that_is_told_codes_comes_back(
    steps: int, rank: int | None, tmp_path: Path
) -> None:
    base, rows, noise = flow(), data(3), torch.randn(3, *SHAPE)
    steering = _adapter().steering
    chain = embed_codes(base, 3, data(1), steps=steps, rank=rank, features_key=steering.latent_key)
    changed(chain)
    saved = replace(_adapter(), tuned=chain.weights(), base_fingerprint=base.fingerprint())
    save_adapter(tmp_path, saved)
    loaded = load_adapter(tmp_path, base).chain(base)
    assert loaded is not None
    rows.set(steering.latent_key, torch.eye(3))
    played = chain.decode_from(rows, noise)
    assert loaded.codes == 3
    assert torch.equal(loaded.decode_from(rows, noise), played)
    rows.set(steering.latent_key, torch.eye(3).roll(1, 0))
    assert not torch.allclose(loaded.decode_from(rows, noise), played, atol=0.01)


def test_a_residual_of_single_steps_comes_back_beside_one_of_chunks(tmp_path: Path) -> None:
    read = [PLACE, "time", keys.BASE_ACTION]
    options = {"bound": 0.4, "hidden": (8,), "latent_key": ("code", "one_hot")}
    moving = StepResidual.at_zero(read, 5, 4, torch.diag(torch.rand(2)), **options)
    torch.nn.init.normal_(moving.network.head.network.layers[-1].weight)
    chunks = ChunkResidual.at_zero([PLACE, "time"], 3, 4, torch.randn(2, 6), bound=0.5, offset=1)
    assert _adapter().step_residual is None
    save_adapter(tmp_path, replace(_adapter(), residual=chunks, step_residual=moving))
    loaded = load_adapter(tmp_path)
    action, state = torch.randn(3, 2), _data()[:3]
    assert torch.equal(loaded.step_residual.move(state, action), moving.move(state, action))
    assert isinstance(loaded.step_residual, StepResidual)
    assert type(loaded.residual) is ChunkResidual


def test_a_second_save_replaces_the_first(folder: Path) -> None:
    changed = _adapter()
    changed.steering.set_std(0.2)
    save_adapter(folder, changed)
    found = load_adapter(folder).steering.distribution(_data())
    assert torch.allclose(found.stddev, torch.tensor(0.2))


def test_another_base_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'runs/base/policy'.*load that base, or run disc"):
        load_adapter(folder, TinyPolicy(2, seed=1))


def test_entries_of_a_later_version_are_left_out_with_a_warning(folder: Path) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    with pytest.warns(UserWarning, match=r"later version, which are left out: \['colour'\]"):
        load_adapter(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(
            load_adapter(folder).steering.distribution(_data()).mean, _steering_mean(_adapter())
        )


def test_the_dtype_is_kept(tmp_path: Path) -> None:
    adapter = _adapter()
    adapter.steering.double()
    adapter.estimator.double()
    save_adapter(tmp_path, adapter)
    loaded = load_adapter(tmp_path)
    data = _data().double()
    assert torch.equal(
        loaded.steering.distribution(data).mean, adapter.steering.distribution(data).mean
    )
    assert loaded.steering.distribution(data).mean.dtype == torch.float64
    assert torch.equal(loaded.estimator.log_prob(data), adapter.estimator.log_prob(data))


def test_which_codes_are_steered_comes_back(tmp_path: Path) -> None:
    made, data = _adapter(), _data()
    made.steering.head.steer_only(torch.tensor([True, False, True, False]), 0.4)
    save_adapter(tmp_path, made)
    found = load_adapter(tmp_path).steering.distribution(data)
    held = data["code", "one_hot"][:, 1::2].any(1)
    assert torch.equal(found.mean, _steering_mean(made))
    assert torch.equal(found.mean[held], torch.zeros_like(found.mean[held]))
    assert torch.equal(found.stddev[held], torch.ones_like(found.mean[held]))
    assert bool((found.mean[~held] != 0).any(-1).any(-1).all())


def test_an_adapter_that_says_nothing_of_steered_codes_steers_all(folder: Path) -> None:
    weights = load((folder / MODEL).read_bytes())
    (name,) = [name for name in weights if name.endswith(".steered")]
    del weights[name]
    config = json.loads((folder / CONFIG).read_text())
    del config["digest"]
    (folder / MODEL).write_bytes(save(weights))
    (folder / CONFIG).write_text(json.dumps(config | {"digest": _digest(config, weights)}))
    loaded = load_adapter(folder)
    assert torch.equal(loaded.steering.distribution(_data()).mean, _steering_mean(_adapter()))
    assert torch.equal(loaded.steering.head.steered, torch.ones(4))


def _edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def _config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        """Change the options and give them the digest that they would have."""
        config = json.loads((folder / CONFIG).read_text())
        before = config.get("digest")
        change(config)
        if config.get("digest") == before:
            rest = {name: config[name] for name in config if name != "digest"}
            config["digest"] = _digest(rest, load((folder / MODEL).read_bytes()))
        (folder / CONFIG).write_text(json.dumps(config))

    return apply


def _foreign_weights(folder: Path) -> None:
    other = _adapter()
    other.steering.set_std(0.9)
    save_adapter(folder / "other", other)
    (folder / "other" / MODEL).replace(folder / MODEL)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "expected a file .*found none"),
        (lambda folder: (folder / MODEL).unlink(), "expected intact weights in"),
        (_edit(CONFIG, lambda data: data[:-40]), "expected JSON in .*damaged"),
        (_edit(CONFIG, lambda data: b'{"model_type": "llama"}'), "an adapter's configuration"),
        (_edit(CONFIG, lambda data: b"[1, 2]"), "an adapter's configuration"),
        (_edit(MODEL, lambda data: data[:-10]), "expected intact weights in"),
        (_edit(MODEL, lambda data: b"GGUF" * 99), "expected intact weights in"),
        (_edit(MODEL, lambda data: data[:-1] + bytes([data[-1] ^ 1])), "are not as they were"),
        (_foreign_weights, "are not as they were"),
        (
            _config(lambda c: c["steering"]["network"].update(hidden=[9, 9])),
            "do not fit each other",
        ),
        (_config(lambda c: c["steering"]["network"].update(depth=3)), "do not fit each other"),
        (_config(lambda c: c.update(format=1)), "of format 2 .*got 1; load it with the version"),
        (_config(lambda c: c["steering"].pop("noise_shape")), "do not fit each other"),
        (_config(lambda c: c["prior"].update(kind="other")), "do not fit each other"),
        (_config(lambda c: c["prior"].update(probs=[0.5, 0.6])), "do not fit each other"),
        (_config(lambda c: c["layout"].pop("offset")), "do not fit each other"),
        (_config(lambda c: c["layout"].update(execute=0)), "do not fit each other"),
        (_config(lambda c: c["base"].pop("fingerprint")), "the base's reference"),
        (_config(lambda c: c.update(base=3)), "the base's reference"),
        (_config(lambda c: c["estimator"].update(kind="no such")), "do not fit each other"),
        (_config(lambda c: c.update(digest=3)), "are not as they were"),
    ],
)
def test_damage_is_answered_in_a_sentence(
    folder: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence):
        load_adapter(folder)


def test_networks_of_ones_own_are_not_saved(tmp_path: Path) -> None:
    own = _adapter()
    own.steering = SteeringPolicy(["x"], 1, 4, (2,), network=nn.Linear(5, 2))
    with pytest.raises(CheckpointError, match="default MLP, got Linear; save its state_dict"):
        save_adapter(tmp_path, own)
    other = MLP(1 + 4, 2, (3,), activation=nn.ReLU, zero_init=True)
    own.steering = SteeringPolicy(["x"], 1, 4, (2,), network=other)
    with pytest.raises(CheckpointError, match="default MLP, got ReLU; save its state_dict"):
        save_adapter(tmp_path, own)
    own = _adapter()
    own.estimator = CategoricalMI(nn.Linear(6, 4), CategoricalPrior(4), in_keys=[keys.HISTORY])
    with pytest.raises(
        CheckpointError, match="default MLP, got CategoricalMI of Linear; save its state_dict"
    ):
        save_adapter(tmp_path, own)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_estimator_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    made = KINDS[kind](6, 3)
    made.fit_features(2 * torch.randn(50, 6) + 1)
    adapter = replace(_adapter(), estimator=made, prior=made.prior)
    save_adapter(tmp_path / kind, adapter)
    found = load_adapter(tmp_path / kind).estimator
    assert type(found) is type(made)
    latent = made.prior.sample(torch.Size([9]))
    data = TensorDict({"history": torch.randn(9, 6), "latent": latent}, [9])
    assert torch.equal(found.log_ratio(data), made.log_ratio(data))
    assert found.upper_limit == made.upper_limit
    assert found.state_dict().keys() == made.state_dict().keys()
    assert found.options() == made.options()
    assert found.network.module.std == made.network.module.std


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_learned_prior_comes_back_as_one(dtype: torch.dtype, tmp_path: Path) -> None:
    made = CategoricalMI(6, LearnedPrior(torch.tensor([0.3, -1.1, 0.0]))).to(dtype)
    save_adapter(tmp_path, replace(_adapter(), estimator=made, prior=made.prior))
    found = load_adapter(tmp_path)
    assert found.prior is found.estimator.prior
    assert torch.equal(found.prior.logits, made.prior.logits)
    assert found.prior.logits.dtype == dtype


def test_an_estimator_of_one_s_own_is_refused(tmp_path: Path) -> None:
    class Mine(CategoricalMI):
        pass

    with pytest.raises(CheckpointError, match="got Mine of InputNoise; save its state_dict"):
        save_adapter(tmp_path, replace(_adapter(), estimator=Mine(6, CategoricalPrior(PROBS))))


def test_a_code_network_of_one_s_own_is_refused(tmp_path: Path) -> None:
    made = ContrastiveMI(6, 4, code_network=nn.Linear(4, 32))
    with pytest.raises(CheckpointError, match="default code network, got one with Linear; save"):
        save_adapter(tmp_path, replace(_adapter(), estimator=made))


# --- beside another layout


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"execute": 2}, "execute 3 and 2"),
        ({"offset": 0}, "offset 1 and 0"),
        ({"feature_dims": (0,)}, r"feature_dims \(0, 1\) and \(0,\)"),
        ({"feature_dims": None}, r"feature_dims \(0, 1\) and None"),
        ({"feature_keys": ("time",)}, r"feature_keys \(\('agent', 'position'\),\) and \('time',\)"),
        ({"max_steps": 15}, "max_steps 12 and 15"),
        ({"steering_keys": (PLACE,)}, r"steering_keys .*'time'\) and \(\('agent', 'position'\),\)"),
        ({"noise_basis": None}, r"noise_basis of shape \(8, 3\) and None"),
        ({"noise_basis": -BASIS}, r"noise_basis of shape \(8, 3\) and another of shape \(8, 3\)"),
        ({"time_limit": "terminates"}, "time_limit 'truncates' and 'terminates'"),
        ({"observation_steps": 2}, "observation_steps 1 and 2"),
        ({"horizon": 8}, "horizon 4 and 8"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_layout_is_refused(folder: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"another layout than .*: {named}; use the adap"):
        load_adapter(folder, TinyPolicy(2), replace(LAYOUT, **changes))


def test_every_field_of_the_layout_counts_but_the_discount(folder: Path) -> None:
    both = replace(LAYOUT, execute=2, offset=0)
    with pytest.raises(ConfigurationError, match="execute 3 and 2; offset 1 and 0; use"):
        load_adapter(folder, layout=both)
    assert load_adapter(folder, TinyPolicy(2), replace(LAYOUT, gamma=0.5)).layout.gamma == 0.999


# --- damage of any kind


def _entries(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        yield (*path, name)
        if isinstance(part, dict | list):
            yield from _entries(part, (*path, name))


def test_an_option_that_is_deleted_or_changed_anywhere_is_refused(folder: Path) -> None:
    text = (folder / CONFIG).read_text()
    places = list(_entries(json.loads(text)))
    assert len(places) > 60
    for *path, last in places:
        for change in ("delete", "replace"):
            config = json.loads(text)
            holder = config
            for name in path:
                holder = holder[name]
            if change == "delete":
                del holder[last]
            else:
                holder[last] = [7] if holder[last] != [7] else [8]
            (folder / CONFIG).write_text(json.dumps(config))
            with pytest.raises(CheckpointError):
                load_adapter(folder)
    (folder / CONFIG).write_text(text)
    load_adapter(folder)


@pytest.mark.parametrize("name", [CONFIG, MODEL])
def test_a_bit_that_is_flipped_anywhere_is_refused(folder: Path, name: str) -> None:
    """A space of the JSON is no option: what is read is then the same, to the bit."""
    data = (folder / name).read_bytes()
    expected, same = load_adapter(folder), 0
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(data), (150,), generator=generator).tolist():
        bit = 1 << (place % 8)
        flipped = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        (folder / name).write_bytes(flipped)
        try:
            found = load_adapter(folder)
        except CheckpointError:
            continue
        same += 1
        assert json.loads(flipped) == json.loads(data)
        assert found.digest == expected.digest
    assert same <= (150 if name == CONFIG else 0) // 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["steering", "estimator", "basis"])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    folder: Path, tmp_path: Path, value: float, part: str
) -> None:
    broken = _adapter()
    if part == "basis":
        broken.layout = replace(LAYOUT, noise_basis=torch.full((8, 3), value))
    else:
        with torch.no_grad():
            next(getattr(broken, part).parameters()).view(-1)[0] = value
    with pytest.raises(CheckpointError, match="finite weights, got NaN or infinity in .*to save"):
        save_adapter(tmp_path / "new", broken)
    assert not (tmp_path / "new").exists()

    weights = load((folder / MODEL).read_bytes())
    weights["steering." + next(iter(broken.steering.state_dict()))].view(-1)[0] = value
    config = json.loads((folder / CONFIG).read_text())
    del config["digest"]
    (folder / MODEL).write_bytes(save(weights))
    (folder / CONFIG).write_text(json.dumps(config | {"digest": _digest(config, weights)}))
    with pytest.raises(CheckpointError, match="finite weights, got NaN or infinity in .*steering"):
        load_adapter(folder)
