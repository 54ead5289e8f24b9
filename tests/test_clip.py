"""CLIP: every text tower from embeddings, what images go through, weights from everywhere, and what can go wrong."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clips
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tiny_clips import RESNET, VIT
from torch import Tensor, nn

from rtlit.errors import RtlitError, UsageError, WeightsError
from rtlit.training.clip import Clip, load_clip

TEXTS = ["a backlit photo of a dog", "X X X X", "well-lit " * 100]


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_clips.register(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def resnet(open_clip: Any) -> Clip:
    return load_clip(RESNET, "random")


@pytest.fixture
def photo(picture: NDArray[np.uint8]) -> Tensor:
    """The frame of the clip as [1, 3, 720, 1280] in 0 … 1."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


# Text.


@pytest.mark.parametrize("name", tiny_clips.CONFIGS)
def test_embeddings_of_real_tokens_give_encode_text(open_clip: Any, name: str) -> None:
    clip = load_clip(name, "random")
    tokens = clip.tokenize(TEXTS)
    with torch.no_grad():
        expected = nn.functional.normalize(clip.model.encode_text(tokens), dim=-1)  # type: ignore[operator]
        assert torch.equal(clip.encode_text(TEXTS), expected)
        assert torch.equal(clip.encode_embeddings(clip.embed_tokens(tokens), tokens), expected)
        assert torch.equal(clip.encode_text(TEXTS), expected), "the substitution outlived its call"
    assert expected.shape == (3, clip.dim) and tokens.shape == (3, clip.context_length)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(3))


@pytest.mark.parametrize("name", tiny_clips.CONFIGS)
def test_gradients_reach_the_embeddings(open_clip: Any, name: str) -> None:
    clip = load_clip(name, "random")
    tokens = clip.tokenize(TEXTS)
    embeddings = clip.embed_tokens(tokens).requires_grad_()
    encoded = clip.encode_embeddings(embeddings, tokens)
    torch.testing.assert_close(encoded, clip.encode_text(TEXTS), atol=1e-6, rtol=0)
    encoded[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    moved = embeddings.detach() - 1e-3 * nn.functional.normalize(embeddings.grad, dim=(1, 2))
    assert bool((clip.encode_embeddings(moved, tokens)[:, 0] < encoded[:, 0]).all())


# Images.


def test_images_are_prepared_as_open_clip_does(
    open_clip: Any, resnet: Clip, picture: NDArray[np.uint8], photo: Tensor
) -> None:
    """Against its own transform of the 8-bit picture, which rounds and clamps after columns and after rows again."""
    from PIL import Image

    settings = resnet.model.visual.preprocess_cfg | {"resize_mode": "squash"}  # type: ignore[operator,union-attr]
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**settings), is_train=False)
    ours, theirs = (
        x * resnet.std + resnet.mean for x in (resnet.prepare(photo), transform(Image.fromarray(picture))[None])
    )
    error = (ours.clamp(0, 1) - theirs) * 255
    assert float(error.abs().max()) < 4 and float(error.abs().mean()) < 0.4


def test_embeddings_of_images(resnet: Clip, photo: Tensor) -> None:
    pictures = [photo, photo.flip(-1), 1 - photo[..., :300, :500], torch.rand(1, 3, 64, 64)]
    encoded = torch.cat([resnet.encode_image(picture) for picture in pictures])
    assert encoded.shape == (4, resnet.dim) and encoded.dtype == torch.float32
    torch.testing.assert_close(encoded.norm(dim=-1), torch.ones(4))
    batch = resnet.encode_image(torch.cat(pictures[:2]))
    torch.testing.assert_close(batch, encoded[:2], atol=1e-6, rtol=0)
    assert float((encoded[0] - encoded[2]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", [RESNET, VIT])
def test_gradients_reach_every_part_of_the_picture(open_clip: Any, name: str) -> None:
    clip = load_clip(name, "random")
    images = torch.rand(2, 3, 90, 160, requires_grad=True)
    clip.encode_image(images)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and bool(images.grad.isfinite().all())
    assert float(nn.functional.max_pool2d(images.grad.abs(), 10).min()) > 0


def test_features_are_what_the_stages_put_out(resnet: Clip, photo: Tensor) -> None:
    seen: list[Tensor] = []
    tower: Any = resnet.model.visual
    stages = [tower.avgpool, tower.layer1, tower.layer2, tower.layer3, tower.layer4]
    hooks = [stage.register_forward_hook(lambda module, args, output: seen.append(output.clone())) for stage in stages]
    resnet.encode_image(photo)
    for hook in hooks:
        hook.remove()
    features = resnet.features(photo)
    assert [tuple(f.shape[1:]) for f in features] == [(8, 16, 16), (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features, seen, strict=True))


def test_features_pass_gradients(resnet: Clip) -> None:
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    for feature in resnet.features(images):
        (gradient,) = torch.autograd.grad(feature.square().mean(), images, retain_graph=True)
        assert float(gradient.abs().max()) > 0


def test_other_towers_have_no_features(open_clip: Any) -> None:
    clip = load_clip(VIT, "random")
    assert not clip.has_features
    with pytest.raises(UsageError, match="no ResNet image tower.*RN101"):
        clip.features(torch.rand(1, 3, 64, 64))


def test_bfloat16_is_near_enough(resnet: Clip, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA devices do, on the CPU: results are float32 and within bfloat16's 2⁻⁸ a few layers deep."""
    exact, features = resnet.encode_image(photo), resnet.features(photo)
    monkeypatch.setattr(Clip, "_autocast", lambda clip: torch.autocast("cpu", torch.bfloat16))
    rounded, rough = resnet.encode_image(photo), resnet.features(photo)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert float((rounded - exact).norm()) < 0.03
    for ours, theirs in zip(rough, features, strict=True):
        assert ours.dtype == torch.float32 and float((ours - theirs).norm() / theirs.norm()) < 0.03


# Frozen, random, quiet.


def test_nothing_of_it_learns(resnet: Clip) -> None:
    assert not any(parameter.requires_grad for parameter in resnet.parameters())
    assert not resnet.train().model.training and not nn.Sequential(resnet).train()[0].model.training
    assert all(tensor.grad is None for tensor in resnet.parameters())


def test_random_weights_are_always_the_same(open_clip: Any) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (load_clip(VIT, "random").state_dict() for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loading_says_nothing_and_leaves_logging_alone(
    open_clip: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, level = logging.getLogger().handlers[:], logging.root.manager.disable
    load_clip(VIT, "random")
    assert not caplog.records and capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers and logging.root.manager.disable == level


# Weights from files and tags.


def state_of(clip: Clip) -> dict[str, Tensor]:
    """A state for the model of `clip` that isn't its random one, in numbers that float16 has, too."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, tensor in clip.model.state_dict().items():
        noise = 0.05 * torch.randn(tensor.shape, generator=generator)
        state[name] = (tensor + noise).half().float() if tensor.is_floating_point() else tensor
    return state


def as_checkpoint(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)


def as_archive(state: dict[str, Tensor], path: Path) -> None:
    """A TorchScript archive with the names of OpenAI's, and its float16."""

    class Holder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    root = Holder()
    for name, tensor in {**state, "input_resolution": torch.tensor(64), "vocab_size": torch.tensor(49408)}.items():
        *folders, last = name.split(".")
        module: nn.Module = root
        for folder in folders:
            if not hasattr(module, folder):
                module.add_module(folder, Holder())
            module = module.get_submodule(folder)
        module.register_buffer(last, tensor.half() if tensor.is_floating_point() else tensor)
    with pytest.warns(DeprecationWarning):
        torch.jit.script(root).save(str(path))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("write", "suffix"), [(torch.save, "pt"), (as_checkpoint, "pt"), (save_file, "safetensors"), (as_archive, "pt")]
)
@pytest.mark.parametrize("name", [RESNET, VIT])
def test_weights_from_a_file(
    open_clip: Any, tmp_path: Path, name: str, write: Callable[[dict[str, Tensor], Path], None], suffix: str
) -> None:
    state = state_of(load_clip(name, "random"))
    write(state, tmp_path / f"weights.{suffix}")
    clip = load_clip(name, str(tmp_path / f"weights.{suffix}"))
    loaded = clip.model.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())
    assert clip.weights == str(tmp_path / f"weights.{suffix}")


def test_openai_archive_gets_quickgelu_and_others_are_told(
    open_clip: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of(load_clip(VIT, "random"))
    torch.save(state, tmp_path / "state.pt")
    as_archive(state, tmp_path / "archive.pt")
    quick = load_clip(f"{VIT}-quickgelu", str(tmp_path / "state.pt")).encode_text(TEXTS)
    assert torch.equal(load_clip(VIT, str(tmp_path / "archive.pt")).encode_text(TEXTS), quick)
    assert not caplog.records
    plain = load_clip(VIT, str(tmp_path / "state.pt")).encode_text(TEXTS)
    assert float((plain - quick).abs().max()) > 1e-3
    assert len(caplog.records) == 1 and f"choose {VIT}-quickgelu" in caplog.text


@pytest.fixture
def tagged(open_clip: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tag of the tiny model, as OpenAI's weights are listed."""
    entry = open_clip.pretrained._pcfg(hf_hub="timm/tiny_clip.openai/", quick_gelu=True)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, VIT, {"openai": entry, "other": entry})
    return VIT


def test_weights_of_a_tag_from_the_cache(tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    save_file(state_of(load_clip(VIT, "random")), tmp_path / "open_clip_model.safetensors")
    asked = []

    def cached(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    clip = load_clip(tagged)
    assert asked == [("timm/tiny_clip.openai", "open_clip_model.safetensors")] and clip.weights == "openai"
    quick = load_clip(f"{VIT}-quickgelu", str(tmp_path / "open_clip_model.safetensors"))
    assert torch.equal(clip.encode_text(TEXTS), quick.encode_text(TEXTS))


def test_the_second_file_of_a_tag_is_tried(tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    torch.save(state_of(load_clip(VIT, "random")), tmp_path / "open_clip_pytorch_model.bin")

    def asked(url: str, timeout: float) -> None:
        if "safetensors" in url:
            raise huggingface_hub.errors.EntryNotFoundError("404")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file: str(tmp_path / file))
    assert load_clip(tagged).weights == "openai"


def test_no_network_says_what_to_download(tagged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(url: str, timeout: float) -> None:
        assert "timm/tiny_clip.openai" in url and timeout <= 10
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(WeightsError) as caught:
        load_clip(tagged, "openai", option="--identity")
    message = str(caught.value)
    assert "Name or service not known" in message and "\n" not in message
    assert "open_clip_model.safetensors of timm/tiny_clip.openai" in message
    assert f"--identity {VIT}-quickgelu --identity-weights FILE" in message and "rtlit-lighting" in message


# What can go wrong.


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def empty(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(b"")


def garbage(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(b"not weights at all")


def truncated(folder: Path) -> None:
    torch.save(state_of(load_clip(VIT, "random")), folder / "bad.pt")
    (folder / "bad.pt").write_bytes((folder / "bad.pt").read_bytes()[:5000])


def archive_of_something(folder: Path) -> None:
    as_archive({"weight": torch.zeros(3)}, folder / "bad.pt")


def of_another_model(folder: Path) -> None:
    torch.save(load_clip(RESNET, "random").model.state_dict(), folder / "bad.pt")


def picture(folder: Path) -> None:
    torch.save(torch.zeros(3), folder / "bad.pt")


def trap(folder: Path) -> None:
    torch.save({"state_dict": Trap(folder / "sprung")}, folder / "bad.pt")


@pytest.mark.parametrize(
    "spoil",
    [empty, garbage, truncated, archive_of_something, of_another_model, picture, trap],
    ids=lambda f: f.__name__,
)
def test_damaged_weights_are_one_line(open_clip: Any, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tmp_path)
    with pytest.raises(WeightsError) as caught:
        load_clip(VIT, str(tmp_path / "bad.pt"))
    assert f"bad.pt: not weights of {VIT}" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("ViT-B32", None, "did you mean ViT-B-32"),
        ("rn101", None, "did you mean RN101"),
        ("lighting", None, "did you mean rtlit-lighting"),
        ("?", None, "for example ViT-B-32"),
        ("RN101", "laion", "neither a file nor a tag of RN101; its tags are openai, yfcc15m"),
        ("ViT-S-32", None, "it has no tags"),
        ("rtlit-lighting", "openai", "brings its own weights"),
    ],
)
def test_what_does_not_exist_is_said(open_clip: Any, name: str, weights: str | None, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_clip(name, weights)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_with_a_model(open_clip: Any, tmp_path: Path) -> None:
    state = state_of(load_clip(VIT, "random"))
    save_file(state, tmp_path / "open_clip_model.safetensors")
    model, preprocessing = tiny_clips.CONFIGS[VIT] | {"embed_dim": 24}, {"mean": [0.5] * 3, "std": [0.25] * 3}
    config = json.dumps({"model_cfg": model, "preprocess_cfg": preprocessing})
    (tmp_path / "open_clip_config.json").write_text(config)
    clip = load_clip(f"local-dir:{tmp_path}")
    assert clip.mean.flatten().tolist() == [0.5] * 3 and clip.std.flatten().tolist() == [0.25] * 3
    assert all(torch.equal(clip.model.state_dict()[name], tensor) for name, tensor in state.items())
    assert load_clip(clip.name, clip.weights).image_size == 64


def test_a_folder_that_is_no_model(open_clip: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="local-dir:.*can't load a CLIP from there"):
        load_clip(f"local-dir:{tmp_path}")


def test_open_clip_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(RtlitError, match=r"open_clip: pip install 'rtlit\[train\]'"):
        load_clip("ViT-B-32")
