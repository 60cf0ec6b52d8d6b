"""A LoRA set's arithmetic: right, padded without a trace, and the same bits in every way of doing it."""

import itertools

import pytest
import torch

from loaders import deltas
from loaders.deltas import Factors
from loaders.pipelines import streamed


def factors(rank: int, scale: float = 1.0, *, wide: int = 48, high: int = 40, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, wide, generator=generator), torch.randn(high, rank, generator=generator)
    return Factors(rank, down, up, scale)


def filled(parts: list[Factors], *, wide: int = 48, high: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rank = deltas.bucket(sum(part.rank for part in parts))
    down, up = torch.full((rank, wide), 7.0), torch.full((high, rank), 7.0)  # what an earlier set left
    deltas.fill(down, up, parts)
    return down, up


@pytest.mark.parametrize(("rank", "bucket"), [(1, 8), (8, 8), (9, 16), (64, 64), (200, 256), (256, 256)])
def test_ranks_share_buckets(rank: int, bucket: int) -> None:
    assert deltas.bucket(rank) == bucket


@pytest.mark.parametrize("ranks", [(4,), (8,), (256,), (3, 5), (4, 64, 16)])
def test_a_set_is_the_sum_of_its_adapters(ranks: tuple[int, ...]) -> None:
    weight = torch.randn(40, 48, generator=torch.Generator().manual_seed(9))
    parts = [factors(rank, 0.5 + seed, seed=seed) for seed, rank in enumerate(ranks)]
    made = deltas.add(weight, *filled(parts), torch.empty_like(weight))
    expected = weight.double()
    for part in parts:
        expected = expected + part.scale * part.up.double() @ part.down.double()
    assert torch.allclose(made.double(), expected, atol=1e-4)


def test_an_adapter_that_leaves_a_weight_alone_adds_nothing() -> None:
    weight = torch.randn(40, 48)
    parts = [Factors(4), factors(4), Factors(8)]
    alone = deltas.add(weight, *filled([factors(4)]), torch.empty_like(weight))
    beside = deltas.add(weight, *filled(parts), torch.empty_like(weight))
    assert torch.allclose(beside, alone, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_layer_that_merges_on_the_way_has_the_bits_of_a_merged_one(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer: torch.nn.Module = torch.nn.Linear(48, 40) if kind == "linear" else torch.nn.Conv2d(12, 40, 2)
    value = torch.randn(3, 48) if kind == "linear" else torch.randn(2, 12, 5, 5)
    layer, value = layer.to(dtype), value.to(dtype)
    weight = layer.weight
    assert isinstance(weight, torch.nn.Parameter)
    root, before = torch.nn.ModuleDict({"layer": layer}), type(layer)
    with torch.no_grad():
        base = layer(value)
        for parts in ([factors(4)], [factors(4, seed=3), factors(12, -0.5, seed=4)]):
            down, up = filled(parts)
            merged = deltas.add(weight, down, up, torch.empty_like(weight))
            update = streamed.Update(down, up, torch.empty_like(weight), torch.empty(40, 48))
            with streamed.streaming({"role": root}, {("role", "layer.weight"): update}):
                made = layer(value)
            weight.data, kept = merged, weight.data
            expected = layer(value)
            weight.data = kept
            assert torch.equal(made, expected)
            assert not torch.equal(made, base)
        assert torch.equal(layer(value), base)
    assert type(layer) is before
    assert "lora" not in vars(layer)


def test_a_layer_is_itself_again_after_a_failure() -> None:
    root = torch.nn.ModuleDict({"layer": torch.nn.Linear(48, 40)})
    update = streamed.Update(*filled([factors(4)]), torch.empty(40, 48), None)
    with (
        pytest.raises(RuntimeError, match="injected"),
        streamed.streaming({"role": root}, {("role", "layer.weight"): update}),
    ):
        raise RuntimeError("injected")
    assert type(root["layer"]) is torch.nn.Linear


def test_only_layers_of_known_arithmetic_can_stream() -> None:
    class Odd(torch.nn.Linear):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return value @ self.weight.T

    root = torch.nn.ModuleDict(
        {"linear": torch.nn.Linear(2, 2), "odd": Odd(2, 2), "norm": torch.nn.LayerNorm(2)}
    )
    found = {
        f"{name}.{leaf}": streamed.can_stream(root, f"{name}.{leaf}")
        for name, leaf in itertools.product(root, ("weight", "bias"))
    }
    assert [name for name, can in found.items() if can] == ["linear.weight"]
