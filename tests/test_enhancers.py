"""Enhancers to train: what they compute is what `--weights` computes with their export."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from rtlit import Enhancer, OutputError, UsageError, WeightsError, weights
from rtlit.network import CurveNetwork, NetworkConfig
from rtlit.training.enhancers import KINDS, CurveEnhancer, TrainableEnhancer, UnetEnhancer, make_enhancer
from rtlit.unet import load_unet

SMALL = NetworkConfig(thumbnail=64, bins=5, width=8, blocks=1)


def small(kind: str, seed: int = 0) -> TrainableEnhancer:
    """An enhancer that does something: new curves are the identity, and a new U-Net makes all white."""
    enhancer = make_enhancer(kind, config=SMALL if kind == "curves" else None, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if isinstance(enhancer, CurveEnhancer):
            shape = enhancer.network.head.weight.shape
            enhancer.network.head.weight.copy_(torch.randn(shape, generator=generator))
        elif isinstance(enhancer, UnetEnhancer):
            enhancer.network.leave.bias.fill_(0.5)
    return enhancer


def as_images(picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", [(64, 64), (90, 161), (161, 90), (33, 47), (16, 300), (241, 321)])
@pytest.mark.parametrize("init", ["shipped", "random"])
def test_curves_are_those_of_the_enhancer(
    size: tuple[int, int], init: str, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    part = np.ascontiguousarray(picture[200 : 200 + size[0], 400 : 400 + size[1]] // 3)  # too dark
    path = weights.DEFAULT
    enhancer = make_enhancer("curves", path) if init == "shipped" else small("curves")
    if init == "random":
        path = tmp_path / "export.safetensors"
        enhancer.export(path)
    with torch.no_grad():
        codes = (enhancer(as_images(part))[0].permute(1, 2, 0) * 255).numpy()
    still = Enhancer("cpu", weights=path, threads=1)(part)
    assert np.abs(np.rint(codes) - still).max() <= 1
    assert np.abs(still.astype(int) - part).max() > 8


def test_unet_is_that_of_the_enhancer_but_for_its_padding(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    small("clip-lit-unet").export(path)
    part = np.ascontiguousarray(picture[200:296, 400:512])
    trained, tested = make_enhancer("clip-lit-unet", path), UnetEnhancer(load_unet(path))
    with torch.no_grad():
        zeros, reflect = ((each(as_images(part))[0].permute(1, 2, 0) * 255).numpy() for each in (trained, tested))
    still = Enhancer("cpu", weights=path, threads=1)(part)
    assert np.abs(np.rint(reflect) - still).max() <= 1
    assert np.abs(zeros - reflect).max() > 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_everything_learns(kind: str) -> None:
    enhancer = small(kind)
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(1), requires_grad=True)
    enhanced = enhancer(images)
    assert enhanced.shape == images.shape and enhancer.training
    assert enhanced.min() >= 0 and enhanced.max() <= 1
    (enhanced - 0.6).square().mean().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and images.grad.abs().max() > 0
    for name, parameter in enhancer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_export_and_init(kind: str, tmp_path: Path) -> None:
    enhancer, path = small(kind), tmp_path / "export.safetensors"
    enhancer.export(path, iteration="7")
    with safe_open(path, "pt") as file:
        assert file.metadata()["iteration"] == "7"
    again, images = make_enhancer(kind, path), torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images), enhancer(images))
    assert all(parameter.requires_grad for parameter in again.parameters()) and again.training
    assert os.listdir(tmp_path) == ["export.safetensors"]
    other = next(each for each in KINDS if each != kind)
    with pytest.raises(WeightsError, match=f"export.safetensors: weights for --enhancer {kind}, not {other}"):
        make_enhancer(other, path)


def test_init_takes_a_released_checkpoint(tmp_path: Path) -> None:
    enhancer = small("clip-lit-unet")
    assert isinstance(enhancer, UnetEnhancer)
    torch.save({f"module.{name}": value for name, value in enhancer.network.state_dict().items()}, tmp_path / "a.pth")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(make_enhancer("clip-lit-unet", tmp_path / "a.pth")(images), enhancer(images))


@pytest.mark.parametrize("kind", KINDS)
def test_reset_depends_on_its_seed_alone(kind: str) -> None:
    before = torch.get_rng_state()
    first, second = make_enhancer(kind, seed=4), make_enhancer(kind, seed=5)
    second.reset(4)
    torch.rand(3)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    second.reset(6)
    assert any(not torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))
    torch.set_rng_state(before)
    make_enhancer(kind, seed=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_new_curves_are_the_identity() -> None:
    images = torch.rand(2, 3, 40, 50)
    assert torch.allclose(make_enhancer("curves")(images), images, atol=1e-6)


def test_bad_wishes_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'unet' is not an enhancer; choose curves or clip-lit-unet"):
        make_enhancer("unet")
    for kind, init in (("clip-lit-unet", None), ("curves", weights.DEFAULT)):
        with pytest.raises(UsageError, match="leave them out"):
            make_enhancer(kind, init, config=SMALL)
    with pytest.raises(WeightsError, match="none.safetensors: no such weights file"):
        make_enhancer("curves", tmp_path / "none.safetensors")


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    enhancer = small("curves")
    with pytest.raises(OutputError, match=r"no/such.safetensors: can't be written \(no such folder\)"):
        enhancer.export(tmp_path / "no" / "such.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder: can't be written \(Is a directory\)"):
        enhancer.export(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_dimensions_are_the_networks(tmp_path: Path) -> None:
    enhancer = make_enhancer("curves", config=SMALL)
    assert isinstance(enhancer, CurveEnhancer) and enhancer.network.config == SMALL
    default = make_enhancer("curves")
    assert isinstance(default, CurveEnhancer) and isinstance(default.network, CurveNetwork)
    assert default.network.config == NetworkConfig()


def test_roughness_is_that_of_the_grid(picture: NDArray[np.uint8]) -> None:
    images = as_images(picture[:120, :160])
    curves = small("curves")
    assert isinstance(curves, CurveEnhancer)
    enhanced, rough = curves.with_roughness(images)
    assert torch.equal(enhanced, curves(images)) and rough > 0
    with torch.no_grad():  # the same curves everywhere
        curves.network.head.weight.zero_()
        curves.network.head.bias.fill_(0.5)
    assert curves.with_roughness(images)[1].item() == pytest.approx(0, abs=1e-6)
    assert small("clip-lit-unet").with_roughness(images)[1] == 0
