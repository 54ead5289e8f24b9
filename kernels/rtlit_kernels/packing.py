"""Weights of the estimate network as `rtlit_kernels.estimate` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class NetworkConfig(Protocol):
    """Dimensions of a network; `rtlit.network.NetworkConfig` is one."""

    @property
    def channels(self) -> int:
        """K, curves to a cell and bin."""

    @property
    def bins(self) -> int:
        """D, tone bins."""

    @property
    def width(self) -> int:
        """Features of a cell."""

    @property
    def blocks(self) -> int:
        """Residual blocks."""


@dataclass(frozen=True)
class Packed:
    """A network's weights as the kernels read them, on one device; made by `pack_network`.

    C is the width padded to a multiple of 32, P that padded to a power of two; H the features of the first convolution
    and N = K·D, both padded to powers of two. What is padded is zero, and stays so. Weights are fp16, biases fp32.
    """

    channels: int
    bins: int
    width: int  # C
    stem: tuple[Tensor, Tensor, Tensor, Tensor]  # [H, 32] (27 inputs), [H], [C, 3, 4, H] (three columns), [C]
    convs: tuple[tuple[Tensor, Tensor], ...]  # [C, 9, C], [C]: the last strided convolution, then two a block
    context: tuple[Tensor, Tensor, Tensor, Tensor]  # [P, 2, P] (of mean and spread), [P], [P, P], [P]
    head: tuple[Tensor, Tensor]  # [N, P], [N]


def pack_network(state_dict: Mapping[str, Tensor], config: NetworkConfig) -> Packed:
    """Weights of a `rtlit.network.CurveNetwork`, padded and laid out for `estimate`, on the device they are on.

    Raises:
        ValueError: weights that aren't finite in fp16.
    """
    width, outputs = config.width, config.channels * config.bins
    c, h, n = -(-width // 32) * 32, _power_of_two(width // 2), _power_of_two(outputs)
    p = _power_of_two(c)

    def convolution(name: str) -> Tensor:
        return state_dict[f"{name}.weight"].movedim(1, -1)  # [out, 3, 3, in]

    def pack(name: str, weight: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
        if not weight.half().isfinite().all():
            raise ValueError(f"{name}.weight: {float(weight.abs().max()) = } is beyond 16-bit floats")
        return _padded(weight.half(), shape), _padded(state_dict[f"{name}.bias"].float(), shape[:1])

    convs = ["down.2", *(f"blocks.{block}.{i}" for block in range(config.blocks) for i in (0, 1))]
    return Packed(
        config.channels,
        config.bins,
        c,
        (
            *pack("down.0", state_dict["down.0.weight"].flatten(1), h, 32),
            *pack("down.1", convolution("down.1"), c, 3, 4, h),
        ),
        tuple(pack(name, convolution(name).flatten(1, 2), c, 9, c) for name in convs),
        (
            *pack("context.0", state_dict["context.0.weight"].unflatten(1, (2, width)), p, 2, p),
            *pack("context.1", state_dict["context.1.weight"], p, p),
        ),
        pack("head", state_dict["head.weight"].flatten(1), n, p),
    )


def _power_of_two(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())  # tl.dot takes no less than 16


def _padded(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    padded = tensor.new_zeros(shape)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
