"""Launch configurations, and the variants of each kernel that ship.

Nothing tunes itself at run time: a configuration is picked by size and device, so a CUDA graph can be captured and
no process starts with a search. `bench/tune.py` prints better numbers on a GPU; they are copied here by hand.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import torch

# Whether @triton.jit hands kernels to Triton's interpreter (decided as it is imported). It costs about 0.1 s a program
# whatever the block's size, so there blocks are as big as they may be.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched; kernels with blocks to choose extend it.

    Attributes:
        num_warps: warps a program; 32 threads each (64 on CDNA).
        num_stages: depth of the software pipeline of loops.
    """

    num_warps: int = 4
    num_stages: int = 2
    tunables: ClassVar[tuple[str, ...]] = ()  # fields that are constexprs of the kernel, by the same names in capitals

    def blocks(self) -> dict[str, int]:
        """The kernel's tunables."""
        return {name.upper(): getattr(self, name) for name in self.tunables}

    def options(self) -> dict[str, Any]:
        """Keyword arguments of a launch and options of a compilation."""
        # Said, not left to the default, which changes in Triton 3.10.
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device; (0, 0) of the CPU, where the interpreter runs."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; 1 of the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@dataclass(frozen=True)
class Variant:
    """A kernel as it ships: what has to be compiled, with what it may cost.

    Attributes:
        name: short and unique in its module, such as "apply nv12".
        fn: the @triton.jit function.
        signature: type of each argument that is no constexpr and no 1: "*u8", "*fp16", "i32", "fp32"; tuples of them.
        constexprs: value of each constexpr; also of arguments that are 1 at every launch, which Triton folds.
        launch: warps and stages.
        registers: most registers a thread may take on NVIDIA targets (tests hold it to that).
        divisible: names of arguments that are multiples of 16 at every launch: aligned pointers, strides.
        capabilities: those of the GPUs it is launched on, ten times, such as 75 for 7.5.
    """

    name: str
    fn: Any
    signature: Mapping[str, str | tuple[str, ...]]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    launch: Launch = Launch()
    registers: int = 128
    divisible: tuple[str, ...] = ()
    capabilities: range = range(75, 1000)

    def compile(self, target: Any) -> Any:
        """The compiled kernel for a `triton.backends.compiler.GPUTarget`; needs no GPU."""
        import triton
        from triton.compiler import ASTSource

        arguments = self.fn.arg_names
        constexprs = dict(self.constexprs)
        if "ASM" in constexprs and target.backend != "cuda":
            constexprs["ASM"] = False  # PTX; rtlit_kernels.instructions
        unknown = {*self.signature, *constexprs, *self.divisible} - {*arguments}
        missing = {*arguments} - {*self.signature} - {*constexprs}
        if unknown or missing:
            raise ValueError(f"variant {self.name!r}: no arguments {sorted(unknown)}, nothing for {sorted(missing)}")
        signature = {name: self.signature.get(name, "constexpr") for name in arguments}
        attributes = {(arguments.index(name),): [["tt.divisibility", 16]] for name in self.divisible}
        source = ASTSource(self.fn, signature, constexprs, attributes)
        return triton.compile(source, target=target, options=self.launch.options())


@dataclass(frozen=True)
class ConvLaunch(Launch):
    """A convolution of the estimate network.

    Attributes:
        cells: cells of the output a program computes.
        features: features of the output a program computes.
        inputs: features of one tap that a step of the loop takes.
    """

    cells: int = 16
    features: int = 16
    inputs: int = 64


@dataclass(frozen=True)
class TailLaunch(Launch):
    """The end of the estimate network.

    Attributes:
        cells: cells a program computes.
        statistics: cells a step of mean and spread takes.
    """

    num_warps: int = 8
    cells: int = 16
    statistics: int = 256


@dataclass(frozen=True)
class NetworkLaunch:
    """The kernels of the estimate network."""

    stem: ConvLaunch
    conv: ConvLaunch
    tail: TailLaunch


# At 112×192 and width 96: 252 programs, then 126 for each convolution, then 21. Four warps fetch what a convolution's
# program multiplies in two tiles of the tensor cores: fetching takes long, so four steps of it are under way at once.
NETWORK = NetworkLaunch(ConvLaunch(num_stages=1, features=64), ConvLaunch(num_stages=5), TailLaunch())
# Triton (3.6 to 3.9) has no tensor cores before Ampere: tl.dot is unrolled into FMAs, and bigger blocks spill.
TURING_NETWORK = NetworkLaunch(
    ConvLaunch(num_warps=8, num_stages=1, features=16), ConvLaunch(inputs=32), TailLaunch(cells=8, statistics=128)
)
_INTERPRETED_NETWORK = NetworkLaunch(
    ConvLaunch(cells=256, features=64), ConvLaunch(cells=512, features=32), TailLaunch(cells=512)
)


def network_launch(width: int, device: torch.device) -> NetworkLaunch:
    """For a network of `width` features, a multiple of 32."""
    launch = NETWORK if capability(device) >= (8, 0) else TURING_NETWORK
    return fitted(_INTERPRETED_NETWORK if INTERPRETED else launch, width)


def fitted(launch: NetworkLaunch, width: int) -> NetworkLaunch:
    """A launch whose blocks divide `width` features, a multiple of 32."""
    stem = replace(launch.stem, features=min(launch.stem.features, width & -width))
    return replace(launch, stem=stem, conv=replace(launch.conv, inputs=min(launch.conv.inputs, width & -width)))


@dataclass(frozen=True)
class AnalyzeLaunch(Launch):
    """Blocks of `analyze`.

    Attributes:
        tile: cells of a row of the thumbnail to a program.
        rows: rows of pixels at a time.
        columns, chroma_columns: codes of a row of each plane that a tile covers, and up to 15 before it.
        cells: powers of two that hold the tile; span, chroma_span: and the samples a cell touches.
    """

    tile: int = 16
    rows: int = 16
    columns: int = 256
    chroma_columns: int = 256
    cells: int = 16
    span: int = 16
    chroma_span: int = 8
    tunables = ("rows", "columns", "chroma_columns", "cells", "span", "chroma_span")


def analyze_launch(
    frame: tuple[int, int], size: tuple[int, int], shift_x: int, interleaved: bool, align: int, device: torch.device
) -> AnalyzeLaunch:
    """Blocks for a frame of (H, W) and a thumbnail of (h, w).

    Args:
        align: codes in 16 bytes; a program's rows begin at a multiple of it.
    """
    (height, width), (h, w) = frame, size
    strides = (1, 2 if interleaved else 1)
    units = (w, w << shift_x)
    target = 4096 if INTERPRETED else 256

    def columns(tile: int) -> tuple[int, int]:
        """Codes from a tile's first one, aligned down, to its last one, of luma and chroma."""
        pairs = zip(units, strides, strict=True)
        luma, chroma = ((tile * width // unit + 1 + align) * stride for unit, stride in pairs)
        return luma, chroma

    tile = next((tile for tile in range(w, 1, -1) if max(columns(tile)) <= target), 1)
    # Samples that a cell touches: one more at each end where it isn't a whole number of them.
    span, chroma_span = (_power_of_two(width // unit + (2 if width % unit else 0)) for unit in units)
    luma, chroma = map(_power_of_two, columns(tile))
    rows = min(_power_of_two(height // h + (2 if height % h else 0)), 64 if INTERPRETED else 16)
    return AnalyzeLaunch(2, 1, tile, rows, luma, chroma, _power_of_two(tile), span, chroma_span)


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


@dataclass(frozen=True)
class ApplyLaunch(Launch):
    """Blocks of `apply_curves`.

    Attributes:
        block: chroma blocks of a row to a step of a program.
        cells, tones: powers of two that hold the grid's cells that a step touches, and its tones.
        depth: rows of blocks that a program goes through, one after the other.
        bands: most spaces between rows of the grid that they lie in.
        programs: number of programs.
    """

    num_stages: int = 1
    block: int = 512
    cells: int = 8
    tones: int = 8
    depth: int = 8
    bands: int = 2
    programs: int = 1
    tunables = ("block", "cells", "tones")


def apply_launch(
    frame: tuple[int, int], grid: Sequence[int], shifts: tuple[int, int], device: torch.device
) -> ApplyLaunch:
    """For a frame of (H, W), a grid of (D, GH, GW) and chroma subsampled by shifts of (y, x)."""
    (height, width), (tones, grid_rows, grid_columns), (shift_y, shift_x) = frame, grid, shifts
    strips, blocks = -(-height >> shift_y), -(-width >> shift_x)
    block = min(4096 if INTERPRETED else 512, _power_of_two(blocks))
    # Between first and last column of a step lie `span` cells' widths: so many whole cells and a part at either end.
    span = ((block << shift_x) - 1) * grid_columns // width
    cells = _power_of_two(min(grid_columns, span + 2))
    tiles = -(-blocks // block)
    depth = -(-strips * tiles // (4 * processors(device))) if not INTERPRETED else strips
    bands = min(grid_rows, ((depth << shift_y) - 1) * grid_rows // height + 2)
    return ApplyLaunch(4, 1, block, cells, _power_of_two(tones), depth, bands, tiles * -(-strips // depth))


@dataclass(frozen=True)
class FilterLaunch(Launch):
    """Blocks of `filter_planes`.

    Attributes:
        rows, columns: of pixels to a program.
    """

    num_stages: int = 1
    rows: int = 16
    columns: int = 128


def filter_launch(rows: int, columns: int) -> FilterLaunch:
    """For a frame of so many rows and columns."""
    return FilterLaunch(rows=min(rows, 24), columns=_power_of_two(columns)) if INTERPRETED else FilterLaunch()
