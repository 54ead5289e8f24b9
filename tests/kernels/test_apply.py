"""`apply_curves` against the reference: every format, memory as decoders give it, in place, with filtered planes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rtlit_kernels
from rtlit import reference
from rtlit.frame import Color, PixelFormat
from rtlit_kernels import apply
from tests.frames import COLORS, FORMATS, color_for, random_grid, random_planes
from tests.kernels import ptx
from tests.kernels.frames3 import LAYOUTS, on

# One code: float32 in another order. Measured on random grids, e⁻⁴ … e⁴ from bin to bin: 0.0 … 0.1 % of the codes
# differ at 8 bits, up to 0.9 % at 16.
TOLERANCE, SHARE = 1, 0.02
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, every test runs the PTX")


def gains(**shape: int) -> Tensor:
    return reference.exponentiate(random_grid(1, **shape)[0], 1)


def assert_close(got: list[Tensor], want: list[Tensor], pixel_format: PixelFormat) -> None:
    for index, (plane, wanted) in enumerate(zip(got, want, strict=True)):
        assert plane.dtype == wanted.dtype
        distance = (plane.cpu().int() - wanted.cpu().int()).abs() / (1 << pixel_format.low_bits)
        assert distance.max() <= TOLERANCE, f"plane {index}"
        assert (distance > 0).sum() <= max(3, SHARE * distance.numel()), f"plane {index}: too often one code away"


def check(
    planes: list[Tensor], gain: Tensor, name: str, color: Color, device: torch.device, **filtered: list[Tensor]
) -> list[Tensor]:
    pixel_format = PixelFormat(name)
    clean = {key: [plane.to(device) for plane in value] for key, value in filtered.items()}
    got = rtlit_kernels.apply_curves(on(device, planes), gain.to(device), pixel_format, color, **clean)
    unit = 2.0 ** (pixel_format.depth - 16)
    codes = {key: [plane.float() * unit for plane in value] for key, value in filtered.items()}
    assert_close(got, reference.apply_curves(planes, gain, pixel_format, color, **codes), pixel_format)
    return got


# One of each subsampling, depth and layout; what they share is tested once.
EVERY = [name for name in FORMATS if not name.endswith(("9le", "12le"))] + ["nv12", "nv24", "p010le", "p216le"]


@pytest.mark.parametrize("name", EVERY)
def test_every_format(name: str, device: torch.device) -> None:
    """Of an odd size, codes out of range included."""
    color = color_for(PixelFormat(name), Color("bt601", full_range=name.startswith("yuvj")))
    check(random_planes(PixelFormat(name), (17, 19), seed=1), gains(rows=3, columns=4), name, color, device)


@pytest.mark.parametrize("name", ["nv12", "p010le", "yuv422p", "yuv420p16le", "gbrp", "gray10le"])
def test_gain_one_changes_nothing(name: str, device: torch.device) -> None:
    pixel_format, one = PixelFormat(name), torch.ones(3, 8, 1, 2, device=device)
    planes = random_planes(pixel_format, (17, 18), seed=1)
    color = color_for(pixel_format, Color())
    same = rtlit_kernels.apply_curves(on(device, planes), one, pixel_format, color)
    assert all(torch.equal(got.cpu(), plane) for got, plane in zip(same, planes, strict=True))


@pytest.mark.parametrize("color", COLORS, ids=str)
def test_every_color(color: Color, device: torch.device) -> None:
    check(random_planes(PixelFormat("nv12"), (16, 48), seed=2), gains(), "nv12", color, device)


@pytest.mark.parametrize(
    "grid",
    [{"bins": 2}, {"bins": 5, "channels": 1}, {"rows": 1}, {"columns": 1}, {"rows": 32, "columns": 32}],
    ids=str,
)
def test_every_grid(grid: dict[str, int], device: torch.device) -> None:
    check(random_planes(PixelFormat("yuv420p"), (18, 70), seed=3), gains(**grid), "yuv420p", Color(), device)


@pytest.mark.parametrize("width", [1060, 1055])
def test_the_blocks_of_a_gpu(width: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles to a row and two programs down a tile, that go through several bands; none of them whole."""
    monkeypatch.setattr("rtlit_kernels.launch.INTERPRETED", False)
    planes = random_planes(PixelFormat("nv12"), (33, width), seed=8)
    check(planes, gains(rows=5, columns=21), "nv12", Color(), device)


@pytest.mark.parametrize("name", ["nv12", "p010le", "yuv422p", "gbrp"])
def test_pitches_and_in_place(name: str, device: torch.device) -> None:
    """Rows longer than the picture, by an odd and an even number of codes; what lies between rows stays as it is."""
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, (16, 34), seed=4)
    color = color_for(pixel_format, Color())
    want = reference.apply_curves(planes, gains(), pixel_format, color)
    for more in (5, 6):
        step = planes[-1].stride(1)
        base = [torch.full((p.shape[0], p.shape[1] + more), 77, dtype=p.dtype, device=device) for p in planes]
        if step == 2:
            both = torch.full((*base[1].shape, 2), 77, dtype=planes[1].dtype, device=device)
            base[1:] = [both[..., 0], both[..., 1]]
        views = [whole[:, :-more] for whole in base]
        for view, plane in zip(views, planes, strict=True):
            view.copy_(plane)
        got = rtlit_kernels.apply_curves(views, gains().to(device), pixel_format, color, out=views)
        assert all(a is b for a, b in zip(got, views, strict=True))
        assert_close(got, want, pixel_format)
        assert all((whole[:, -more:].cpu().int() == 77).all() for whole in base)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["yuv420p", "yuv444p10le"])
def test_memory_layouts(name: str, layout: Callable[[Tensor], Tensor], device: torch.device) -> None:
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, (17, 34), seed=10)
    laid = [layout(plane) for plane in on(device, planes)]
    got = rtlit_kernels.apply_curves(laid, gains().to(device), pixel_format, Color(), out=laid)
    assert_close(got, reference.apply_curves(planes, gains(), pixel_format, Color()), pixel_format)


@pytest.mark.parametrize("name", ["nv12", "yuv420p10le", "gbrp", "gray"])
def test_filtered(name: str, device: torch.device) -> None:
    """The planes that the temporal filter leaves, in 16 bits; gain 1 still gives the frame itself."""
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, (17, 22), seed=5)
    rng = np.random.default_rng(6)
    clean = [torch.from_numpy(rng.integers(0, 65535, plane.shape, np.uint16, endpoint=True)) for plane in planes]
    color = color_for(pixel_format, Color("bt2020"))
    check(planes, gains(rows=2, columns=3), name, color, device, filtered=clean)
    same = check(planes, torch.ones(3, 8, 2, 3), name, color, device, filtered=clean)
    assert all(torch.equal(got.cpu(), plane) for got, plane in zip(same, planes, strict=True))


def test_buffers_are_only_used(device: torch.device) -> None:
    """With `out` and `scratch` nothing is allocated; more scratch than needed, and what it holds, don't matter."""
    pixel_format, planes = PixelFormat("nv12"), random_planes(PixelFormat("nv12"), (16, 32), seed=7)
    gain = gains()
    size = apply.scratch_size((16, 32), gain.shape, pixel_format, device)
    scratch = torch.full((size + 8,), float("nan"), device=device)
    out = on(device, random_planes(pixel_format, (16, 32), seed=8))
    arguments = (on(device, planes), gain.to(device), pixel_format, Color())
    rtlit_kernels.apply_curves(*arguments, out=out, scratch=scratch)
    assert_close(out, reference.apply_curves(planes, gain, pixel_format, Color()), pixel_format)
    assert scratch[size:].isnan().all()
    with pytest.raises(ValueError, match=f"expected {size} f32"):
        rtlit_kernels.apply_curves(*arguments, scratch=scratch[: size - 1])
    with pytest.raises(ValueError, match="expected contiguous at 16 bytes"):
        rtlit_kernels.apply_curves(*arguments, scratch=scratch[1:])
    with pytest.raises(ValueError, match="expected \\[3 or 1"):
        rtlit_kernels.apply_curves(arguments[0], gain[:2].contiguous().to(device), pixel_format, Color())


@interpreted
@pytest.mark.parametrize(
    ("name", "channels"), [("nv12", 3), ("yuv420p", 1), ("p010le", 3), ("yuv444p16le", 3), ("gray", 1)]
)
def test_the_ptx(name: str, channels: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NVIDIA's GPUs run, with the meaning of each instruction in NumPy; K = 1 and 3."""
    from triton.runtime import interpreter

    snippets: set[str] = set()

    def assembly(
        self: Any, asm: str, constraints: str, values: list[Any], kinds: list[Any], pure: bool, pack: int
    ) -> Any:
        snippets.add(asm)
        elements = [kind.element_ty if kind.is_block() else kind for kind in kinds]
        types = [interpreter._get_np_dtype(kind) for kind in elements]
        shape = values[0].data.shape
        flat = [value.data.astype(np.uint64) if value.dtype.is_ptr() else value.data for value in values]
        arrays = ptx.run(asm, constraints, [np.asarray(array).reshape(-1) for array in flat], types, pack)
        handles = [interpreter.TensorHandle(a.reshape(shape), k) for a, k in zip(arrays, elements, strict=True)]
        return type("Call", (), {"get_result": lambda self, n: handles[n]})()

    def fused(self: Any, x: Any, y: Any, z: Any) -> Any:  # in Triton 3.6 the interpreter's rounds twice
        return interpreter.TensorHandle(ptx.fused(x.data, y.data, z.data).astype(np.float32), z.dtype)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", assembly)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", fused)
    monkeypatch.setattr(apply, "INTERPRETED", False)
    check(random_planes(PixelFormat(name), (16, 32), seed=9), gains(channels=channels), name, Color(), device)
    assert len(snippets) >= 7
