"""Low-rank adapters: what they change, what learns, and what is left once they are merged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from modereg.errors import CheckpointError, ConfigurationError
from modereg.policies import DenoisingChain, LowRank, freeze, low_rank_copy, merged
from modereg.policies.generative import GenerativePolicy
from tests.policies.made import SHAPE, data, flow


def moved(module: nn.Module) -> nn.Module:
    """Move the adapters, as training would."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, LowRank):
                part.up.normal_()
    return module


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (6,)),
        (nn.Conv1d(6, 4, 3, groups=2), (6, 7)),
        (nn.Conv2d(3, 4, 3), (3, 5, 5)),
        (nn.ConvTranspose1d(6, 4, 3), (6, 7)),
    ],
)
def test_a_layer_has_its_weight_and_a_product_of_a_low_rank(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(2, *shape)
    made = low_rank_copy(layer, 2)
    assert torch.equal(made(x), layer(x)), "before any update"
    moved(made)
    change = (made.weight - layer.weight).flatten(1)
    assert torch.linalg.matrix_rank(change) == 2
    by_hand = copy.deepcopy(layer)
    with torch.no_grad():
        by_hand.weight.copy_(made.weight)
    torch.testing.assert_close(made(x), by_hand(x))
    assert float((made(x) - layer(x)).abs().max().detach()) > 0.1
    plain = merged(made, layer)
    assert torch.equal(plain(x), made(x))
    assert type(plain) is type(layer)
    assert set(plain.state_dict()) == set(layer.state_dict())
    assert torch.equal(made(x), plain(x)), "it goes on"


def test_what_attention_reads_past_its_layers_is_adapted_too() -> None:
    """The fast path of torch's transformer, in eval mode, takes weights and calls no layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    layer.eval().requires_grad_(False)
    x = torch.randn(3, 4, 8)
    for name in ("self_attn", "self_attn.out_proj", "linear1", "linear2"):
        made = low_rank_copy(layer, 2)
        moved(made.get_submodule(name).parametrizations)
        plain = merged(made, layer)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                away = (made(x) - layer(x)).detach().abs().max()
                assert float(away) > 0.01, (name, grad)
                torch.testing.assert_close(made(x), plain(x), rtol=1e-5, atol=1e-5)


def test_only_adapters_get_a_gradient_and_the_weights_are_in_memory_once() -> None:
    base = flow()
    base.velocity.register_buffer("scale", torch.ones(3))
    made = low_rank_copy(base, 2)
    made.decode_from(data(4), torch.randn(4, *SHAPE)).sum().backward()
    learned = {name for name, value in made.named_parameters() if value.grad is not None}
    ends = [f"parametrizations.weight.0.{end}" for end in ("up", "down")]
    assert learned == {f"velocity.net.{layer}.{end}" for layer in (0, 2) for end in ends}
    assert all(not value.requires_grad and value.grad is None for value in base.parameters())
    held = {value.data_ptr() for value in [*base.parameters(), *base.buffers()]}
    there = {value.data_ptr() for value in [*made.parameters(), *made.buffers()]}
    assert held < there
    assert len(there - held) == 4


def test_tables_recurrent_layers_shared_weights_and_vectors_are_left() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 6)
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.table.weight
            self.norm, self.cell, self.layer = nn.LayerNorm(6), nn.GRU(6, 6), nn.Linear(6, 9)

    made = low_rank_copy(Parts(), 2)
    adapted = [name for name, part in made.named_modules() if isinstance(part, LowRank)]
    assert adapted == ["layer.parametrizations.weight.0"]
    assert made.head.weight is made.table.weight


def test_a_rank_is_at_most_that_of_the_weight() -> None:
    made = low_rank_copy(nn.Sequential(nn.Linear(2, 40), nn.Linear(40, 40)), 8)
    ranks = [part.up.shape[1] for part in made.modules() if isinstance(part, LowRank)]
    assert ranks == [2, 8]


@pytest.mark.parametrize(
    ("module", "rank", "sentence"),
    [
        (nn.Linear(6, 6), 0, "expected a rank of at least 1, got 0"),
        (nn.Linear(6, 6), 3, "fewer numbers than the 36 of the weights .* got 3, with 36"),
        (nn.LayerNorm(6), 1, "the 0 of the weights that they adapt in LayerNorm, got 1, with 0"),
    ],
)
def test_ranks_that_spare_nothing_are_refused(module: nn.Module, rank: int, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        low_rank_copy(module, rank)


def _adapted(base: GenerativePolicy, rank: int = 2, steps: int | None = None) -> DenoisingChain:
    torch.manual_seed(5)
    chain = DenoisingChain(base, steps, rank=rank)
    moved(chain.tuned)
    return chain


def test_a_chain_of_adapters_begins_as_the_base_and_changes_only_itself() -> None:
    base, rows, noise = flow(), data(6), torch.randn(6, *SHAPE)
    before = copy.deepcopy(base.state_dict())
    expected = base.decode_from(rows, noise)
    assert torch.equal(DenoisingChain(base, rank=2).decode_from(rows, noise), expected)
    chain = _adapted(base)
    away = (chain.decode_from(rows, noise) - expected).detach().abs().max()
    assert float(away) > 0.1
    assert torch.equal(base.decode_from(rows, noise), expected)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    plain = DenoisingChain(base)
    plain.tuned.load_state_dict(merged(chain.tuned, base).state_dict())
    assert torch.equal(plain.decode_from(rows, noise), chain.decode_from(rows, noise))
    assert len({each.fingerprint() for each in (chain, plain, DenoisingChain(base, rank=2))}) == 3


@pytest.mark.parametrize("compiled", [False, True])
def test_adapters_alone_are_kept_and_come_back(compiled: bool) -> None:
    base, rows, noise = flow(), data(3), torch.randn(3, *SHAPE)
    other = copy.deepcopy(base)
    if compiled:
        other.velocity = torch.compile(other.velocity, backend="eager")
    chain = freeze(_adapted(base, steps=2))
    kept = chain.weights()
    assert (kept.steps, kept.rank) == (2, 2)
    assert sorted(name.rpartition(".")[2] for name in kept.weights) == ["down", "down", "up", "up"]
    again = DenoisingChain(other, 2, rank=2)
    again.load_weights(kept.weights)
    with torch.no_grad():  # Dynamo warns of gradients that steps hand on
        decoded = again.decode_from(rows, noise)
    torch.testing.assert_close(decoded, chain.decode_from(rows, noise))
    assert set(again.weights().weights) == set(kept.weights)
    for wrong in (DenoisingChain(base, 2), DenoisingChain(base, 2, rank=1)):
        with pytest.raises(CheckpointError, match="expected the weights of FlowPolicy, got others"):
            wrong.load_weights(kept.weights)


def test_a_copy_of_a_chain_of_adapters_has_its_own() -> None:
    chain, rows, noise = _adapted(flow()), data(3), torch.randn(3, *SHAPE)
    other = copy.deepcopy(chain)
    expected = chain.decode_from(rows, noise)
    moved(other.tuned)
    assert torch.equal(chain.decode_from(rows, noise), expected)
    assert not torch.equal(other.decode_from(rows, noise), expected)


def test_half_precision_stays() -> None:
    made = low_rank_copy(nn.Linear(6, 6).bfloat16(), 1)
    assert {value.dtype for value in made.parameters()} == {torch.bfloat16}
    x: Tensor = torch.randn(2, 6).bfloat16()
    assert made(x).dtype == torch.bfloat16
