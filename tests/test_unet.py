"""The CLIP-LIT U-Net: as the paper draws it, from any file of its weights, in tiles, in every kind of picture."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import pyvips
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

import rtlit.full_resolution as full_resolution
from rtlit import DeviceError, Enhancer, UsageError, WeightsError, enhance_image
from rtlit.commands import main
from rtlit.full_resolution import FullResolution
from rtlit.network import CurveNetwork, NetworkConfig, save_network
from rtlit.unet import Unet, divide, load_unet, load_weights, save_unet

State = dict[str, Tensor]

# What the released checkpoint holds: name → shape.
RELEASED: dict[str, tuple[int, ...]] = {
    "cond1.weight": (32, 3, 3, 3),
    "cond1.bias": (32,),
    "cond_add1.weight": (1, 32, 3, 3),
    "cond_add1.bias": (1,),
    "condx.weight": (64, 32, 3, 3),
    "condx.bias": (64,),
    "condy.weight": (32, 64, 3, 3),
    "condy.bias": (32,),
    **{
        f"ResidualBlock{block}.conv{conv}.weight": (width, width, 3, 3)
        for block, width in enumerate((32, 32, 64, 64, 32, 32), 1)
        for conv in (1, 2)
    },
    **{f"PPM1.features.{level}.1.weight": (8, 32, 1, 1) for level in range(4)},
    **{f"PPM1.features.{level}.2.weight": (1,) for level in range(4)},
    "PPM1.fuse.0.weight": (32, 64, 3, 3),
    "PPM1.fuse.1.weight": (1,),
}


def released(seed: int = 0) -> State:
    """Weights of the released names whose illumination lies around 0.5 and follows the picture."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in RELEASED.items():
        fan_in = math.prod(shape[1:])
        state[name] = torch.randn(shape, generator=generator) * (1.2 / math.sqrt(fan_in))
    for level in range(4):
        state[f"PPM1.features.{level}.2.weight"] = torch.tensor([0.1 * level])
    state["cond_add1.weight"] *= 0.1
    state["cond_add1.bias"] = torch.tensor([0.7])
    return state


def specified(state: State, images: Tensor, padding: str) -> Tensor:
    """The illumination as the paper's network has it, in plain operations on the released names."""

    def conv(x: Tensor, name: str, mode: str) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="constant" if mode == "zeros" else mode)
        return F.conv2d(padded, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def block(x: Tensor, number: int) -> Tensor:
        inner = F.leaky_relu(conv(x, f"ResidualBlock{number}.conv1", "reflect"), 0.2)
        return F.leaky_relu(x + conv(inner, f"ResidualBlock{number}.conv2", "reflect"), 0.2)

    x = block(block(F.leaky_relu(conv(images, "cond1", padding), 0.2), 1), 2)
    levels = [x]
    for level, bins in enumerate((1, 2, 3, 6)):
        pooled = F.conv2d(F.adaptive_avg_pool2d(x, bins), state[f"PPM1.features.{level}.1.weight"])
        pooled = F.prelu(pooled, state[f"PPM1.features.{level}.2.weight"])
        levels.append(F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=True))
    x = F.prelu(conv(torch.cat(levels, 1), "PPM1.fuse.0", "zeros"), state["PPM1.fuse.1.weight"])
    x = conv(block(block(conv(x, "condx", padding), 3), 4), "condy", padding)
    return torch.relu(conv(block(block(x, 5), 6), "cond_add1", padding))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict saved as the released one is: from inside a DataParallel."""
    path = tmp_path_factory.mktemp("unet") / "released.pth"
    torch.save({f"module.{name}": tensor for name, tensor in released().items()}, path)
    return path


@pytest.fixture(scope="session")
def photo(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Part of the frame, 101 × 83: odd sides."""
    return np.ascontiguousarray(picture[300:383, 500:601])


def tones(picture: NDArray[np.generic]) -> Tensor:
    """[1, 3, H, W] in 0 … 1."""
    codes = torch.from_numpy(np.atleast_3d(picture.astype(np.float32))) / np.iinfo(picture.dtype).max
    return codes.permute(2, 0, 1)[None].expand(1, 3, -1, -1)


def expected(picture: NDArray[np.generic], strength: float = 1.0) -> NDArray[np.float64]:
    """The enhanced picture by the formula, in codes."""
    light = specified(released(), tones(picture), "reflect").numpy()[0, 0].astype(np.float64)
    scale = np.iinfo(picture.dtype).max
    divisor = (light if picture.ndim == 2 else light[..., None]) ** strength
    return np.rint((picture / scale / divisor).clip(0, 1) * scale)


def difference(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def test_it_has_the_papers_parameters() -> None:
    assert sum(parameter.numel() for parameter in Unet().parameters()) == 278_790
    assert sum(math.prod(shape) for shape in RELEASED.values()) == 278_790


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("size", [(24, 40), (37, 23)])
def test_it_computes_what_the_paper_draws(padding: str, size: tuple[int, int], checkpoint: Path) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    wanted = specified(released(), images, padding)
    assert 0.1 < wanted.mean() < 2 and wanted.std() > 0.05
    torch.testing.assert_close(load_unet(checkpoint, padding)(images), wanted)  # type: ignore[arg-type]
    other = "zeros" if padding == "reflect" else "reflect"
    assert (load_unet(checkpoint, other)(images) - wanted).abs().max() > 0.005  # type: ignore[arg-type]


@pytest.mark.parametrize("save", ["module.", "", "legacy", "ours"])
def test_every_kind_of_file_gives_the_same_network(save: str, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    if save == "ours":
        save_unet(load_unet(checkpoint), path, made="by a test")
    elif save == "legacy":
        torch.save(released(), path, _use_new_zipfile_serialization=False)
    else:
        torch.save({save + name: tensor for name, tensor in released().items()}, path)
    images = torch.rand(1, 3, 20, 20)
    network = load_weights(path)
    assert isinstance(network, Unet) and not network.training
    torch.testing.assert_close(network(images), specified(released(), images, "reflect"))


def test_load_weights_knows_curve_networks(tmp_path: Path) -> None:
    save_network(CurveNetwork(NetworkConfig(width=8)), tmp_path / "curves.safetensors")
    assert isinstance(load_weights(tmp_path / "curves.safetensors"), CurveNetwork)
    with pytest.raises(WeightsError, match=r"curves.safetensors: not weights of the CLIP-LIT U-Net \(format 'rtlit-"):
        load_unet(tmp_path / "curves.safetensors")


def _without(path: Path) -> None:
    torch.save({name: tensor for name, tensor in released().items() if name != "condx.bias"}, path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such weights file"),
    "garbage": (lambda path: path.write_bytes(b"not weights at all" * 9), "not a readable safetensors file"),
    "folder": (lambda path: path.mkdir(), "not a readable safetensors file"),
    "cut zip": (lambda path: path.write_bytes(b"PK\3\4" + bytes(99)), "not a readable state dict"),
    "a list": (lambda path: torch.save([1, 2], path), "holds a list, not a state dict"),
    "number": (lambda path: torch.save({"cond1.weight": 3}, path), "not weights of the CLIP-LIT U-Net"),
    "numbered": (lambda path: torch.save({3: torch.zeros(1)}, path), "not weights of the CLIP-LIT U-Net"),
    "missing tensor": (_without, "not weights of the CLIP-LIT U-Net, or damaged ones .*widen.bias"),
    "shape": (lambda path: torch.save({**released(), "cond1.bias": torch.zeros(7)}, path), "mismatch for enter.bias"),
    "infinite": (lambda path: torch.save({**released(), "cond1.bias": torch.full((32,), torch.inf)}, path), "finite"),
    "other": (lambda path: save_file({"a": torch.zeros(1)}, path, {"format": "rtlit-clip-lit-unet/1"}), "or damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_weights_give_one_line(kind: str, tmp_path: Path) -> None:
    make, message = BAD[kind]
    make(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"^\S+w.pth: .*{message}") as caught:
        Enhancer("cpu", weights=tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_division_by_nothing() -> None:
    images = torch.tensor([0.0, 1 / 65535, 0.5])[None, None, None].requires_grad_()
    light = torch.zeros(1, 1, 1, 3, requires_grad=True)
    result = divide(images, light)
    assert result.flatten().tolist() == [0, 1, 1]
    result.sum().backward()  # type: ignore[no-untyped-call]
    assert light.grad is not None and light.grad.isfinite().all()
    assert torch.equal(divide(images, light, 0), images)
    torch.testing.assert_close(divide(torch.tensor([0.2]), torch.tensor([0.25]), 0.5), torch.tensor([0.4]))


def test_reset_draws_the_papers_weights() -> None:
    before = torch.get_rng_state()
    first, second, third = Unet("zeros"), Unet(), Unet()
    torch.set_rng_state(before)
    for network, seed in ((first, 5), (second, 5), (third, 6)):
        network.reset(seed)
    assert torch.equal(torch.get_rng_state(), before)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    weights = torch.cat([p.flatten() for name, p in first.named_parameters() if p.dim() == 4])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01) and abs(weights.mean().item()) < 2e-4
    assert not torch.equal(first.enter.weight, third.enter.weight)


@pytest.mark.parametrize("side", [40, 64, 1000])
def test_tiles_show_no_seams(side: int, photo: NDArray[np.uint8], checkpoint: Path) -> None:
    run = FullResolution(load_unet(checkpoint), torch.device("cpu"), 1, side)
    for each in (photo, photo.astype(np.uint16) * 257, photo[..., 1]):
        allowed = 1 if each.dtype == np.uint8 else 8  # 8 of 65535: float32 sums in another order
        assert difference(run(each, 1.0), expected(each)) <= allowed


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_strength_is_a_power(strength: float, photo: NDArray[np.uint8], checkpoint: Path) -> None:
    enhanced = Enhancer("cpu", strength, weights=checkpoint, threads=1)(photo)
    assert difference(enhanced, expected(photo, strength)) <= 1
    assert difference(enhanced, expected(photo)) > 20


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "grey"])
def test_strength_0_keeps_every_pixel(kind: str, photo: NDArray[np.uint8], checkpoint: Path) -> None:
    each: NDArray[np.generic] = photo[..., 0] if kind == "grey" else photo
    if kind == "uint16":
        each = photo.astype(np.uint16) * 257 + np.arange(101, dtype=np.uint16)[:, None]
    if kind == "float32":
        each = photo.astype(np.float32) / 200 - np.float32(0.1)
    assert np.array_equal(Enhancer("cpu", 0, weights=checkpoint, threads=1)(each), each)  # type: ignore[type-var]


def test_floats_are_enhanced_as_16_bits(photo: NDArray[np.uint8], checkpoint: Path) -> None:
    enhancer = Enhancer("cpu", weights=checkpoint, threads=1)
    codes = photo.astype(np.uint16) * 257
    floats = enhancer(photo.astype(np.float32) / 255)
    assert floats.dtype == np.float32
    assert difference(floats, enhancer(codes) / 65535) < 1e-5


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_network_sees_pictures_upright(turns: int, photo: NDArray[np.uint8], checkpoint: Path) -> None:
    enhancer = Enhancer("cpu", weights=checkpoint, threads=1)
    lying = np.rot90(photo, -turns)
    assert np.array_equal(enhancer(lying, quarter_turns=turns), np.rot90(enhancer(photo), -turns))
    assert not np.array_equal(enhancer(lying), np.rot90(enhancer(photo), -turns))


@pytest.mark.parametrize("kind", ["rgba16.png", "grey-alpha.png", "turned.tif"])
def test_picture_files_keep_everything_else(
    kind: str, photo: NDArray[np.uint8], checkpoint: Path, tmp_path: Path
) -> None:
    image = pyvips.Image.new_from_array(photo).copy()
    alpha = (pyvips.Image.xyz(image.width, image.height)[0] * 2).cast("uchar")
    if kind == "rgba16.png":
        image = (image.cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16")
        image = image.bandjoin((alpha * 256).cast("ushort"))
    elif kind == "grey-alpha.png":
        image = image.colourspace("b-w").bandjoin(alpha)
    icc = None if "grey" in kind else pyvips.Operation.call("profile_load", "p3")
    if icc is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    if kind == "turned.tif":
        image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    source, target = tmp_path / f"in-{kind}", tmp_path / f"out-{kind}"
    image.write_to_file(str(source))
    report = enhance_image(source, target, weights=checkpoint, threads=1, device="cpu")
    before, after = (pyvips.Image.new_from_file(str(path)) for path in (source, target))
    assert report.backend == "CLIP-LIT U-Net in torch on 1 CPU thread" and report.warnings == []
    assert (after.bands, after.format, after.interpretation) == (before.bands, before.format, before.interpretation)
    if before.hasalpha():
        assert (after[after.bands - 1] - before[before.bands - 1]).abs().max() == 0
    if icc is not None:
        assert after.get("icc-profile-data") == icc
    colours = before.extract_band(0, n=before.bands - before.hasalpha()).numpy()
    if kind == "turned.tif":
        assert after.get("orientation") == 6
        upright = np.ascontiguousarray(np.rot90(colours, 3))
        wanted = np.rot90(expected(upright), -3)
    else:
        wanted = expected(colours)
    found = after.extract_band(0, n=before.bands - before.hasalpha()).numpy()
    assert difference(found, wanted) <= (8 if before.format == "ushort" else 1)


def test_enhance_image_and_doctor_take_the_file(photo: NDArray[np.uint8], checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    pyvips.Image.new_from_array(photo).write_to_file(str(source))
    options = ["--weights", str(checkpoint), "--threads", "1", "--device", "cpu"]
    result = CliRunner().invoke(main, ["enhance-image", str(source), *options])
    assert (result.exit_code, result.stdout) == (0, "")
    enhanced = pyvips.Image.new_from_file(str(tmp_path / "photo.enhanced.png")).numpy()
    assert difference(enhanced, expected(photo)) <= 1
    doctor = CliRunner().invoke(main, ["doctor", "--weights", str(checkpoint), "--device", "cpu"])
    assert doctor.exit_code == 0 and "278790" in doctor.stdout


def test_video_is_refused_in_one_line(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    line = f"{checkpoint}: weights of the CLIP-LIT U-Net, which is for pictures alone"
    target = tmp_path / "out.mp4"
    result = CliRunner().invoke(main, ["enhance-video", str(clip), "-o", str(target), "--weights", str(checkpoint)])
    assert result.exit_code == 2 and result.stderr.startswith(f"rtlit: {line}") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    enhancer = Enhancer("cpu", weights=checkpoint)
    with pytest.raises(UsageError, match="for pictures alone"):
        enhancer(np.zeros((32, 32, 3), np.uint8), 0.5)
    with pytest.raises(UsageError, match="for pictures alone"):
        enhancer(av.VideoFrame(32, 32, "yuv420p"))


def test_a_picture_too_small_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="40×15 is too small"):
        Enhancer("cpu", weights=checkpoint)(np.zeros((15, 40, 3), np.uint8))


def test_too_little_memory_is_said_before(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enhancer = Enhancer("cpu", weights=checkpoint, threads=1)
    monkeypatch.setattr(full_resolution, "free_memory", lambda: 100_000_000)
    small = np.full((64, 64, 3), 99, np.uint8)
    assert enhancer(small).shape == small.shape
    with pytest.raises(DeviceError, match=r"out of memory for .* \(30[0-9] MB are needed, 100 MB are free\); close"):
        enhancer(np.zeros((400, 400, 3), np.uint8))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: you tried")],
)
def test_too_little_memory_is_said_after(error: Exception, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Tensor:
        raise error

    monkeypatch.setattr(Unet, "features", fail)
    with pytest.raises(DeviceError, match="device cpu: out of memory for the CLIP-LIT U-Net; close"):
        Enhancer("cpu", weights=checkpoint)(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr(Unet, "features", lambda *args: torch.zeros(1, 32, 2, 2))
    with pytest.raises(RuntimeError, match="size"):  # our own mistakes stay what they are
        Enhancer("cpu", weights=checkpoint)(np.zeros((64, 64, 3), np.uint8))


def test_free_memory_is_less_than_there_is() -> None:
    free = full_resolution.free_memory()
    assert free is not None and 10_000_000 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_picture(photo: NDArray[np.uint8], checkpoint: Path) -> None:
    enhancer = Enhancer("cuda", weights=checkpoint)
    assert enhancer.backend_name == "CLIP-LIT U-Net in torch on CUDA"
    assert difference(enhancer(photo), expected(photo)) <= 1
