"""`estimate` against the network it packs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rtlit import weights
from rtlit.network import CurveNetwork, NetworkConfig, load_network
from rtlit_kernels.estimate import Packed, estimate, pack_network, scratch_size
from rtlit_kernels.launch import network_launch

CONFIGS = [
    NetworkConfig(),
    NetworkConfig(width=96, blocks=2),
    NetworkConfig(width=32, blocks=6, bins=16),
    NetworkConfig(width=40, blocks=1, channels=1, bins=5),  # all padded
]
FRAMES = [(1080, 1920), (1080, 1440), (1000, 1000), (1920, 1080), (100, 1000)]


def expected(network: CurveNetwork, thumbnail: Tensor, turns: int) -> Tensor:
    """What `rtlit.enhancer` makes of a network, in fp32 on the CPU."""
    with torch.inference_mode():
        upright = torch.rot90(thumbnail.cpu(), turns, (-2, -1))
        return torch.rot90(network(upright[None])[0], -turns, (-2, -1))


def scene(size: tuple[int, int], device: torch.device, seed: int = 0) -> Tensor:
    """Something with large and small shapes, fp32 [3, h, w] in 0 … 1; white noise would drive all features to zero."""
    torch.manual_seed(seed)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 5), size=size, mode="bicubic")[0]
    return (coarse + 0.1 * torch.randn(3, *size)).clamp(0, 1).to(device)


def random_network(config: NetworkConfig, head: float = 1.0) -> CurveNetwork:
    """A network whose head does something, and whose biases aren't all small."""
    torch.manual_seed(1)
    network = CurveNetwork(config)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(network.head.weight, std=head)
    return network.eval().requires_grad_(False)


def packed(network: CurveNetwork, device: torch.device) -> Packed:
    """The network's weights on the device."""
    return pack_network({name: tensor.to(device) for name, tensor in network.state_dict().items()}, network.config)


def check(got: Tensor, wanted: Tensor) -> None:
    """fp16 activations and weights: half a thousandth each, through up to 17 layers."""
    assert got.shape == wanted.shape and got.dtype == torch.float32
    error = (got.cpu() - wanted).abs()
    assert float(error.max()) < 2e-2
    assert float(error.mean()) < 3e-3
    assert float(wanted.std()) > 0.05  # not a comparison of constants


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("turns", range(4))
def test_shipped_weights(device: torch.device, frame: tuple[int, int], turns: int) -> None:
    network = load_network(weights.DEFAULT)
    height, width = network.config.thumbnail_size(*frame)
    thumbnail = scene((height, width), device)
    got = estimate(thumbnail, packed(network, device), quarter_turns=turns)
    check(got, expected(network, thumbnail, turns))


@pytest.mark.parametrize("brightness", [0, 0.05, 0.3, 1])
def test_real_picture(device: torch.device, clip: Path, brightness: float) -> None:
    av = pytest.importorskip("av", reason="the clip is read with PyAV")
    network = load_network(weights.DEFAULT)
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    size = network.config.thumbnail_size(*picture.shape[-2:])
    thumbnail = torch.nn.functional.interpolate(picture, size=size, mode="area")[0].to(device) * brightness
    check(estimate(thumbnail, packed(network, device)), expected(network, thumbnail, 0))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("frame", [(720, 1280), (1280, 720)])
def test_random_weights(device: torch.device, config: NetworkConfig, frame: tuple[int, int]) -> None:
    network = random_network(config)
    thumbnail = scene(config.thumbnail_size(*frame), device)
    check(estimate(thumbnail, packed(network, device), quarter_turns=1), expected(network, thumbnail, 1))


@pytest.mark.parametrize("capability, width", [((7, 5), 64), ((9, 0), 96)])
def test_blocks_of_a_gpu(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], width: int
) -> None:
    """Other than the interpreter's, many programs to a launch."""
    monkeypatch.setattr("rtlit_kernels.launch.INTERPRETED", False)
    monkeypatch.setattr("rtlit_kernels.launch.capability", lambda device: capability)
    assert network_launch(width, device).conv.cells == 16
    network = random_network(NetworkConfig(width=width, blocks=1))
    thumbnail = scene((24, 48), device)
    check(estimate(thumbnail, packed(network, device), quarter_turns=3), expected(network, thumbnail, 3))


def test_largest_thumbnail(device: torch.device) -> None:
    network = random_network(NetworkConfig(thumbnail=256, blocks=1))
    thumbnail = scene((256, 256), device)
    check(estimate(thumbnail, packed(network, device)), expected(network, thumbnail, 0))


@pytest.mark.parametrize("turns", range(4))
def test_smallest_thumbnail(device: torch.device, turns: int) -> None:
    network = random_network(NetworkConfig(blocks=1))
    thumbnail = scene((16, 24), device)
    check(estimate(thumbnail, packed(network, device), quarter_turns=turns), expected(network, thumbnail, turns))


def test_any_strides_and_given_buffers(device: torch.device) -> None:
    network, size = random_network(NetworkConfig(blocks=1)), (40, 64)
    weights_ = packed(network, device)
    thumbnail = scene(size, device)
    interleaved = torch.empty(*size, 4, device=device)[..., :3].permute(2, 0, 1).copy_(thumbnail)
    # NaN: what a kernel doesn't write, or reads before it is written, shows.
    scratch = torch.full((scratch_size(weights_, size) + 8,), torch.nan, dtype=torch.float16, device=device)
    out = torch.full((3 * 8 * 5 * 8 + 1,), torch.nan, device=device)[1:].view(3, 8, 5, 8)  # at an odd address
    got = estimate(interleaved, weights_, quarter_turns=3, out=out, scratch=scratch)
    assert got is out
    assert torch.equal(got, estimate(thumbnail, weights_, quarter_turns=3))
    assert scratch[-8:].isnan().all()
    check(got, expected(network, thumbnail, 3))


def test_spread_of_equal_features(device: torch.device) -> None:
    """Features of about 1500, the same everywhere: spread is the root of 1e-5. Sums of squares would lose that."""
    network = random_network(NetworkConfig(blocks=1), head=0.1)
    network.down[2].weight.zero_()
    network.down[2].bias.copy_(torch.randint(1000, 2000, (64,)))  # whole in fp16
    network.blocks[0][1].weight.zero_()
    network.blocks[0][1].bias.zero_()
    network.context[0].weight[:, :64] = 0
    network.context[0].weight[:, 64:] *= 500
    network.context[1].weight *= 5
    network.context[1].bias -= network.down[2].bias  # so that what the head gets is small again
    thumbnail = scene((88, 160), device)
    wanted = expected(network, thumbnail, 0)
    check(estimate(thumbnail, packed(network, device)), wanted)
    network.context[0].weight *= 2
    assert float((expected(network, thumbnail, 0) - wanted).abs().max()) > 0.05, "spread has to matter"


def test_features_beyond_fp16_saturate(device: torch.device) -> None:
    network = random_network(NetworkConfig(blocks=1))
    network.down[2].bias.fill_(1e6)
    got = estimate(scene((40, 64), device), packed(network, device))
    assert got.isfinite().all()


def test_what_is_wrong_is_named(device: torch.device) -> None:
    network = random_network(NetworkConfig(blocks=1))
    weights_ = packed(network, device)
    thumbnail = scene((40, 64), device)
    with pytest.raises(ValueError, match=r"thumbnail.shape = torch.Size\(\[3, 40, 60\]\)"):
        estimate(thumbnail[..., :60], weights_)
    with pytest.raises(ValueError, match="torch.float64"):
        estimate(thumbnail.double(), weights_)
    with pytest.raises(ValueError, match=r"out.shape = torch.Size\(\[3, 8, 5, 7\]\)"):
        estimate(thumbnail, weights_, out=torch.empty(3, 8, 5, 7, device=device))
    with pytest.raises(ValueError, match="scratch.shape"):
        estimate(thumbnail, weights_, scratch=torch.empty(10, dtype=torch.float16, device=device))
    network.head.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="head.weight: .* = 1000000.0 is beyond 16-bit floats"):
        packed(network, device)
