"""Guidance: losses by hand, prompts that move beside a CLIP that doesn't, and files of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_clips
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_clips import RESNET, VIT
from torch import Tensor

from rtlit.errors import InputError, OutputError, RtlitError, UsageError, WeightsError
from rtlit.network import CurveNetwork, save_network
from rtlit.training.clip import Clip, load_clip
from rtlit.training.guidance import (
    GUIDANCE,
    AnchoredGuidance,
    Guidance,
    LatentGuidance,
    PromptGuidance,
    ResidualGuidance,
    load_guidance,
    make_guidance,
    save_guidance,
)
from rtlit.training.losses import ranking_loss, refinement_pairs
from rtlit.training.prompts import make_prompts

KINDS = ["prompts", "latent", "residual"]
LEARNED = ["prompts", "latent"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    tiny_clips.register(tmp_path_factory.mktemp("configs"))
    return load_clip(RESNET, "random")


def vector(clip: Clip, *values: float) -> Tensor:
    """[E] that starts with the values, and zeros."""
    return F.pad(torch.tensor(values, dtype=torch.float32), (0, clip.dim - len(values)))


def two_sets(clip: Clip, count: int = 40) -> tuple[Tensor, Tensor]:
    """Unit-length features [N, E] of two overlapping sets."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, count, clip.dim, generator=generator)
    backlit, well_lit = F.normalize(noise + torch.stack([vector(clip, 5, 1), vector(clip, 5, 3)])[:, None], dim=-1)
    return backlit, well_lit


def made(kind: str, clip: Clip) -> Guidance:
    torch.manual_seed(0)
    guidance = make_guidance(kind, clip)
    guidance.initialise(*two_sets(clip))
    if isinstance(guidance, PromptGuidance):  # both start alike, where nothing tells which way to go
        with torch.no_grad():
            guidance.prompts.embeddings[1] += 0.01 * torch.randn(guidance.prompts.embeddings[1].shape)
    return guidance


# By hand.


@pytest.fixture
def latent(clip: Clip) -> LatentGuidance:
    """Anchors at right angles, of other lengths than 1."""
    guidance = LatentGuidance(clip)
    with torch.no_grad():
        guidance.latents.copy_(torch.stack([vector(clip, 3), vector(clip, 0, 0.2)]))
    return guidance


def test_p_backlit_is_the_softmax_of_100_cosines(clip: Clip, latent: LatentGuidance) -> None:
    # cos to the anchors 0.6 + d and 0.6 − d: logits 200·d apart, P = σ(200·d)
    difference = 0.01
    angle = math.pi / 4 - math.asin(difference / math.sqrt(2))
    even, backlit, well_lit = (
        vector(clip, math.cos(a), math.sin(a)) for a in (math.pi / 4, angle, math.pi / 2 - angle)
    )
    assert math.cos(angle) - math.sin(angle) == pytest.approx(difference)
    features = torch.stack([even, backlit, well_lit])
    assert latent.probability(features).tolist() == pytest.approx([0.5, 0.7310586, 0.2689414], abs=1e-5)
    assert float(latent.enhance_loss(features)) == pytest.approx(0.5, abs=1e-5)
    assert float(latent.enhance_loss(features[:2])) == pytest.approx((0.5 + 0.7310586) / 2, abs=1e-5)


def test_initial_loss_is_the_cross_entropy(clip: Clip, latent: LatentGuidance) -> None:
    features = torch.stack([vector(clip, 0.6, 0.8), vector(clip, 0.8, 0.6)])  # logits 60, 80 and 80, 60
    assert latent.initial_loss(features, torch.tensor([0, 1])).item() == pytest.approx(20, abs=1e-4)
    assert latent.initial_loss(features, torch.tensor([1, 0])).item() == pytest.approx(0, abs=1e-6)
    even = vector(clip, math.sqrt(0.5), math.sqrt(0.5))[None]
    assert latent.initial_loss(even, torch.tensor([0])).item() == pytest.approx(math.log(2), abs=1e-5)


def test_residual_by_hand(clip: Clip) -> None:
    guidance = ResidualGuidance(clip)
    backlit = torch.stack([vector(clip, 1), vector(clip, 1)])
    well_lit = torch.stack([vector(clip, 0, 1), vector(clip, 0.6, 0.8)])
    guidance.initialise(backlit, well_lit)
    # mean f_well = (0.3, 0.9), normalised (1, 3)/√10; minus (1, 0)
    x, y = 1 / math.sqrt(10) - 1, 3 / math.sqrt(10)
    length = math.hypot(x, y)
    x, y = x / length, y / length
    assert guidance.residual[:2].tolist() == pytest.approx([x, y]) and not guidance.residual[2:].any()
    threshold = 0.3 * x + 0.9 * y
    assert float(guidance.threshold) == pytest.approx(threshold)
    assert float(guidance.threshold) == pytest.approx(float((well_lit @ guidance.residual).mean()))
    features = torch.stack([vector(clip, 1), vector(clip, 0, 1)])
    expected = ((x - threshold) ** 2 + (y - threshold) ** 2) / 2
    assert float(guidance.enhance_loss(features)) == pytest.approx(expected, rel=1e-5)


def test_residual_probability_is_the_posterior_of_two_gaussians(clip: Clip) -> None:
    guidance, sets = ResidualGuidance(clip), two_sets(clip)
    guidance.initialise(*sets)
    backlit, well_lit = (features @ guidance.residual for features in sets)
    deviation = ((backlit.var(correction=0) + well_lit.var(correction=0)) / 2).sqrt()
    features = torch.cat(sets)
    along = features @ guidance.residual
    densities = [torch.distributions.Normal(x.mean(), deviation).log_prob(along).exp() for x in (backlit, well_lit)]
    expected = densities[0] / (densities[0] + densities[1])
    torch.testing.assert_close(guidance.probability(features), expected, atol=1e-4, rtol=0)
    assert float(guidance.probability(sets[0]).mean()) > 0.6 > 0.4 > float(guidance.probability(sets[1]).mean())


def test_residual_needs_two_different_sets(clip: Clip) -> None:
    features, _ = two_sets(clip)
    guidance = ResidualGuidance(clip)
    assert not bool(guidance.enhance_loss(features).isfinite())
    with pytest.raises(InputError, match="two different folders"):
        guidance.initialise(features, features)


# Learning.


def test_prompts_start_as_sixteen_x(clip: Clip) -> None:
    prompts = make_prompts(clip)
    text = " ".join(["X"] * 16)
    with torch.no_grad():
        assert torch.equal(prompts(clip), clip.encode_text([text, text]))
    assert prompts.tokens.argmax(1).tolist() == [17, 17]
    short = make_prompts(load_clip("tiny-short", "random"))
    assert short.embeddings.shape[1] == 10 and short.tokens.argmax(1).tolist() == [9, 9]


@pytest.mark.parametrize("name", [RESNET, VIT, "tiny-last", "tiny-coca"])
@pytest.mark.parametrize("kind", LEARNED)
def test_prompts_move_and_clip_does_not(clip: Clip, kind: str, name: str) -> None:
    clip = load_clip(name, "random")
    before = {key: tensor.clone() for key, tensor in clip.state_dict().items()}
    guidance = made(kind, clip)
    assert isinstance(guidance, AnchoredGuidance) and guidance.trains_prompts
    start = [parameter.clone() for parameter in guidance.parameters()]
    optimizer = torch.optim.Adam(guidance.parameters(), 2e-3, weight_decay=1e-3)
    sets = two_sets(clip)
    labels = torch.tensor([0, 1]).repeat_interleave(len(sets[0]))
    losses = []
    for iteration in range(30):
        if iteration < 20:
            loss = guidance.initial_loss(torch.cat(sets), labels)
        else:
            probabilities = [guidance.probability(features) for features in sets]
            loss = ranking_loss(refinement_pairs(*probabilities, [probabilities[1]]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            torch.testing.assert_close(guidance.fixed_anchors(), guidance.anchors())
    assert losses[19] < 0.8 * losses[0] and losses[29] < losses[20]
    assert all(not torch.equal(a, b) for a, b in zip(start, guidance.parameters(), strict=True))
    # CoCa's decoder, which nothing here calls, has memory that open_clip doesn't initialise.
    torch.testing.assert_close(clip.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    assert all(parameter.grad is None for parameter in clip.parameters())
    with torch.no_grad():
        backlit, well_lit = (guidance.probability(features).mean() for features in sets)
    assert float(backlit) > float(well_lit) + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_enhance_loss_reaches_pixels_alone(clip: Clip, kind: str) -> None:
    guidance = made(kind, clip)
    images = torch.rand(2, 3, 40, 60, requires_grad=True)
    guidance.enhance_loss(clip.encode_image(images)).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and float(images.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in guidance.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_going_down_the_loss_lowers_p_backlit(clip: Clip, kind: str) -> None:
    guidance = made(kind, clip)
    features = two_sets(clip)[0].requires_grad_()
    guidance.enhance_loss(features).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    with torch.no_grad():
        moved = F.normalize(features - 1e-3 * F.normalize(features.grad, dim=-1), dim=-1)
        assert float(guidance.probability(moved).mean()) < float(guidance.probability(features).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_its_own(clip: Clip, kind: str) -> None:
    guidance = made(kind, clip)
    assert sum(tensor.numel() for tensor in guidance.state_dict().values()) <= 2 * 77 * (32 + 1)
    other = make_guidance(kind, clip)
    if isinstance(other, AnchoredGuidance):
        other.fixed_anchors()
    other.load_state_dict(guidance.state_dict())
    features = torch.cat(two_sets(clip))
    assert torch.equal(other.enhance_loss(features), guidance.enhance_loss(features))


def test_unknown_kind(clip: Clip) -> None:
    assert list(GUIDANCE) == KINDS and [GUIDANCE[kind].trains_prompts for kind in KINDS] == [True, True, False]
    with pytest.raises(UsageError, match="'words'.*prompts, latent, residual"):
        make_guidance("words", clip)


# Files.


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(clip: Clip, kind: str, tmp_path: Path) -> None:
    guidance, features = made(kind, clip), torch.cat(two_sets(clip))
    save_guidance(guidance, tmp_path / "prompts.safetensors", round="3")
    loaded = load_guidance(tmp_path / "prompts.safetensors")
    assert loaded.kind == kind and loaded.clip.name == RESNET and loaded.clip is not clip
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with torch.no_grad():
        assert torch.equal(loaded.probability(features), guidance.probability(features))
    assert load_guidance(tmp_path / "prompts.safetensors", clip).clip is clip
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.safetensors"]


def missing(path: Path, clip: Clip) -> None:
    pass


def garbage(path: Path, clip: Clip) -> None:
    path.write_bytes(b"nothing of the kind")


def curves(path: Path, clip: Clip) -> None:
    save_network(CurveNetwork(), path)


def other_clip(path: Path, clip: Clip) -> None:
    save_guidance(make_guidance("latent", load_clip(VIT, "random")), path)


def tensor_gone(path: Path, clip: Clip) -> None:
    save_guidance(make_guidance("latent", clip), path)
    resave(path, {"probe": load_file(path)["probe"]}, kind="latent")


def kind_unknown(path: Path, clip: Clip) -> None:
    save_guidance(make_guidance("latent", clip), path)
    resave(path, load_file(path), kind="words")


def metadata_gone(path: Path, clip: Clip) -> None:
    save_file({"latents": torch.zeros(2, clip.dim)}, path, {"format": "rtlit-guidance/1"})


def resave(path: Path, state: dict[str, Tensor], kind: str) -> None:
    save_file(state, path, {"format": "rtlit-guidance/1", "kind": kind, "clip": RESNET, "clip_weights": "random"})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, "no such file"),
        (garbage, "not a readable safetensors file"),
        (curves, "not learned prompts (format 'rtlit-curve-network/1'"),
        (other_clip, f"learned with {VIT} (random), not with {RESNET} (random)"),
        (tensor_gone, "damaged"),
        (kind_unknown, "damaged"),
        (metadata_gone, "damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_files_are_one_line(clip: Clip, tmp_path: Path, spoil: Callable[[Path, Clip], None], words: str) -> None:
    spoil(tmp_path / "prompts.safetensors", clip)
    with pytest.raises(WeightsError) as caught:
        load_guidance(tmp_path / "prompts.safetensors", clip)
    assert words in str(caught.value) and "prompts.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_the_clip_gone(clip: Clip, tmp_path: Path) -> None:
    torch.save(clip.model.state_dict(), tmp_path / "clip.pt")
    save_guidance(make_guidance("latent", load_clip(RESNET, str(tmp_path / "clip.pt"))), tmp_path / "p.safetensors")
    (tmp_path / "clip.pt").rename(tmp_path / "moved.pt")
    with pytest.raises(RtlitError, match="p.safetensors: the CLIP it was learned with can't be loaded.*clip.pt"):
        load_guidance(tmp_path / "p.safetensors")
    assert load_guidance(tmp_path / "p.safetensors", clip).kind == "latent"
    moved = load_guidance(tmp_path / "p.safetensors", weights=str(tmp_path / "moved.pt"))
    assert moved.clip.weights == str(tmp_path / "moved.pt")
    with pytest.raises(WeightsError, match=f"not with {VIT}"):
        load_guidance(tmp_path / "p.safetensors", name=VIT, weights="random")


def test_another_activation_in_the_text_tower_is_noticed(clip: Clip, tmp_path: Path) -> None:
    """The same weights, and the same image tower."""
    state = {name: 3 * t if "mlp" in name else t for name, t in clip.model.state_dict().items()}
    torch.save(state, tmp_path / "clip.pt")
    plain, quick = (load_clip(name, str(tmp_path / "clip.pt")) for name in (RESNET, f"{RESNET}-quickgelu"))
    save_guidance(make_guidance("prompts", plain), tmp_path / "p.safetensors")
    assert load_guidance(tmp_path / "p.safetensors", plain).kind == "prompts"
    with pytest.raises(WeightsError, match=f"learned with {RESNET} .*, not with {RESNET}-quickgelu"):
        load_guidance(tmp_path / "p.safetensors", quick)


def test_a_file_that_cannot_be_written(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance = make_guidance("latent", clip)
    with pytest.raises(OutputError, match="nowhere/p.safetensors: can't be written"):
        save_guidance(guidance, tmp_path / "nowhere" / "p.safetensors")

    def full(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        save_guidance(guidance, tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())
