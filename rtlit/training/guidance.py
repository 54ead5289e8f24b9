"""What tells the enhancer which way is well-lit: learned prompts, learned latents, or a residual of mean embeddings.

| kind     | paper           | what is learned                             | loss of enhanced pictures, features f    |
|----------|-----------------|---------------------------------------------|------------------------------------------|
| prompts  | CLIP-LIT        | token embeddings, through the text tower    | mean P(backlit), softmax of 100·cos      |
| latent   | CLIP-LIT-Latent | two vectors in the embedding space          | the same                                 |
| residual | RAVE            | nothing: from means of the two sets         | mean (cos(f, r) − thr)²                  |

CLIP-LIT is arXiv 2303.17569, the other two are arXiv 2404.01889. Features are unit length [B, E]; index 0 is backlit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from rtlit.errors import InputError, OutputError, RtlitError, UsageError, WeightsError
from rtlit.network import read_safetensors
from rtlit.training.clip import Clip, load_clip
from rtlit.training.prompts import BACKLIT, Prompts, make_prompts

_FORMAT = "rtlit-guidance/1"
_PROBE, _ANCHORS = "probe", "anchors"
# Distances of unit vectors. Images go through bfloat16 on some devices: 0.004 measured with rtlit-lighting.
_TOLERANCE = {_PROBE: 0.05, _ANCHORS: 0.005}
_TEMPERATURE = 100.0


class Guidance(nn.Module):
    """One strategy. Its state is its own; the CLIP it belongs to is at hand as `clip` and is no part of the state.

    Attributes:
        kind: "prompts", "latent" or "residual".
        trains_prompts: whether it has parameters, learned in prompt initialisation and refinement.
    """

    kind: ClassVar[str]
    trains_prompts: ClassVar[bool] = True

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self._clip = (clip,)  # in a tuple, so that it is no submodule: not saved, not moved, not trained

    @property
    def clip(self) -> Clip:
        """The CLIP that features must come from."""
        return self._clip[0]

    def initialise(self, backlit: Tensor, well_lit: Tensor) -> None:
        """Start from the features [N, E] of both sets; learned strategies need none."""

    def initial_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Loss of prompt initialisation, of features [B, E] and labels [B] (0 backlit, 1 well-lit), if it trains."""
        raise NotImplementedError

    def probability(self, features: Tensor) -> Tensor:
        """P(backlit) [B] of features [B, E], 0 … 1; gradients reach what is learned, and the features."""
        raise NotImplementedError

    def enhance_loss(self, features: Tensor) -> Tensor:
        """Loss of enhanced pictures' features [B, E]; gradients reach the features alone."""
        raise NotImplementedError


class AnchoredGuidance(Guidance):
    """Two anchors in the embedding space; P(backlit) = softmax(100·cos(f, anchors))[0]."""

    _state: tuple[int, int] | None = None
    _fixed: Tensor

    def anchors(self) -> Tensor:
        """Unit-length [2, E]: backlit, well-lit."""
        raise NotImplementedError

    def fixed_anchors(self) -> Tensor:
        """`anchors` without gradients, computed again only after a parameter changed.

        In-place changes count, as optimizers and load_state_dict make; writing to `.data` goes unnoticed.
        """
        (parameter,) = self.parameters()
        state = (parameter._version, parameter.data_ptr())
        if state != self._state:
            with torch.no_grad():
                self._fixed, self._state = self.anchors(), state
        return self._fixed

    def initial_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of 100·cos(f, anchors)."""
        return F.cross_entropy(_TEMPERATURE * features @ self.anchors().T, labels)

    def probability(self, features: Tensor) -> Tensor:
        anchors = self.anchors() if torch.is_grad_enabled() else self.fixed_anchors()
        return _p_backlit(features, anchors)

    def enhance_loss(self, features: Tensor) -> Tensor:
        return _p_backlit(features, self.fixed_anchors()).mean()


class PromptGuidance(AnchoredGuidance):
    """CLIP-LIT: two sequences of token embeddings, through the frozen text tower."""

    kind = "prompts"

    def __init__(self, clip: Clip) -> None:
        super().__init__(clip)
        self.prompts: Prompts = make_prompts(clip)

    def anchors(self) -> Tensor:
        anchors: Tensor = self.prompts(self.clip)
        return anchors


class LatentGuidance(AnchoredGuidance):
    """CLIP-LIT-Latent: the two anchors are parameters, from torch's global random state; needs no text tower."""

    kind = "latent"

    def __init__(self, clip: Clip) -> None:
        super().__init__(clip)
        self.latents = nn.Parameter(nn.init.xavier_normal_(torch.empty(2, clip.dim, device=clip.device)))

    def anchors(self) -> Tensor:
        return F.normalize(self.latents, dim=-1)


class ResidualGuidance(Guidance):
    """RAVE: the direction r from the mean backlit to the mean well-lit picture, and how far along it to go.

        r = norm(norm(mean f_well) − norm(mean f_back)), thr = ⟨mean f_well, r⟩

    The mean in thr isn't normalised: features have unit length, so that thr is the mean of cos(f, r) over well-lit
    pictures, which is what the loss compares it with. A normalised mean would lie beyond most of them.
    """

    kind = "residual"
    trains_prompts = False
    residual: Tensor
    threshold: Tensor
    middle: Tensor
    slope: Tensor

    def __init__(self, clip: Clip) -> None:
        super().__init__(clip)
        # Not a number until initialised: a loss from it can't be overlooked.
        self.register_buffer("residual", torch.full((clip.dim,), torch.nan, device=clip.device))
        for name in ("threshold", "middle", "slope"):
            self.register_buffer(name, torch.tensor(torch.nan, device=clip.device))

    @torch.no_grad()
    def initialise(self, backlit: Tensor, well_lit: Tensor) -> None:
        """Closed form, from features [N, E] of both sets.

        Raises:
            InputError: both sets have the same mean.
        """
        means = well_lit.mean(0), backlit.mean(0)
        difference = F.normalize(means[0], dim=0) - F.normalize(means[1], dim=0)
        if not difference.norm() > 1e-5:
            raise InputError("CLIP can't tell the backlit from the well-lit photographs; give two different folders")
        self.residual.copy_(F.normalize(difference, dim=0))
        along = well_lit @ self.residual, backlit @ self.residual
        self.threshold.copy_(along[0].mean())
        self.middle.copy_((along[0].mean() + along[1].mean()) / 2)
        variance = (along[0].var(correction=0) + along[1].var(correction=0)) / 2
        self.slope.copy_((along[0].mean() - along[1].mean()) / variance.clamp(min=1e-6))

    def probability(self, features: Tensor) -> Tensor:
        """P(backlit) [B], for logs: Fisher's linear discriminant along r.

        σ(slope·(middle − cos(f, r))), slope = difference of the sets' means / their mean variance: the posterior if
        both sets are Gaussian along r with the same variance; ½ in the middle between their means.
        """
        return torch.sigmoid(self.slope * (self.middle - features @ self.residual))

    def enhance_loss(self, features: Tensor) -> Tensor:
        """Mean of (cos(f, r) − thr)² over features [B, E]."""
        return (features @ self.residual - self.threshold).square().mean()


GUIDANCE: dict[str, type[Guidance]] = {kind.kind: kind for kind in (PromptGuidance, LatentGuidance, ResidualGuidance)}


def make_guidance(kind: str, clip: Clip) -> Guidance:
    """A guidance of a kind, on the device of its CLIP.

    Raises:
        UsageError: no such kind.
    """
    if kind not in GUIDANCE:
        raise UsageError(f"{kind!r}: no such guidance; choose from {', '.join(GUIDANCE)}")
    return GUIDANCE[kind](clip)


def save_guidance(guidance: Guidance, path: Path, **about: str) -> None:
    """Write a guidance whole as safetensors, with which CLIP it belongs to, and `about`, as metadata.

    The embedding of a test picture and the anchors go with it, so that another CLIP, or the right one with the wrong
    activation in its text tower, is noticed when it is loaded.

    Raises:
        OutputError: it can't be written.
    """
    clip = guidance.clip
    metadata = {"format": _FORMAT, "kind": guidance.kind, "clip": clip.name, "clip_weights": clip.weights, **about}
    state = {**guidance.state_dict(), **_signature(guidance)}
    partial = path.with_name(f".{path.name}")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partial, metadata)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: can't be written ({getattr(error, 'strerror', None) or error})") from None


def load_guidance(
    path: Path,
    clip: Clip | None = None,
    device: str | torch.device = "cpu",
    *,
    name: str | None = None,
    weights: str | None = None,
) -> Guidance:
    """Read what `save_guidance` wrote; frozen, on the device of its CLIP.

    Args:
        clip: the CLIP it belongs to; None loads the one that the file names, on `device`.
        name, weights: for `load_clip` in place of what the file names: the same weights under another name.

    Raises:
        WeightsError: no such file, damaged, or of another CLIP; or the CLIP it names can't be loaded.
    """
    metadata, state = _read(path)
    if clip is None:
        try:
            weights = weights or (None if name else metadata["clip_weights"])
            clip = load_clip(name or metadata["clip"], weights, device)
        except RtlitError as error:
            raise WeightsError(f"{path}: the CLIP it was learned with can't be loaded: {error}") from None
    signature = {name: state.pop(name).to(clip.device) for name in (_PROBE, _ANCHORS) if name in state}
    theirs = f"{metadata['clip']} ({metadata['clip_weights']})"
    other = f"{path}: learned with {theirs}, not with {clip.name} ({clip.weights}); give the same CLIP"
    if signature[_PROBE].shape != (1, clip.dim):
        raise WeightsError(other)
    try:
        guidance = make_guidance(metadata["kind"], clip)
        guidance.load_state_dict(state)
    except (UsageError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from None
    for name, ours in _signature(guidance).items():
        if name in signature and not float((ours - signature[name]).norm(dim=1).max()) < _TOLERANCE[name]:
            raise WeightsError(other)
    return guidance.eval().requires_grad_(False)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    missing = "no such file; each run of `rtlit train clip` writes prompts.safetensors"
    metadata, state = read_safetensors(path, missing)
    if metadata.get("format") != _FORMAT:
        raise WeightsError(f"{path}: not learned prompts (format {metadata.get('format')!r}, expected {_FORMAT!r})")
    if not {"kind", "clip", "clip_weights"} <= metadata.keys() or _PROBE not in state:
        raise WeightsError(f"{path}: damaged (incomplete)")
    return metadata, state


@torch.no_grad()
def _signature(guidance: Guidance) -> dict[str, Tensor]:
    """Embeddings of a test picture [1, E] (gradients across and down), and the anchors [2, E] if any."""
    ramp = torch.linspace(0, 1, 64, device=guidance.clip.device)
    red, green = torch.meshgrid(ramp, ramp, indexing="xy")
    picture = torch.stack([red, green, (red - green).abs()])
    signature = {_PROBE: guidance.clip.encode_image(picture[None])}
    if isinstance(guidance, AnchoredGuidance):
        signature[_ANCHORS] = guidance.anchors()
    return signature


def _p_backlit(features: Tensor, anchors: Tensor) -> Tensor:
    return torch.softmax(_TEMPERATURE * features @ anchors.T, -1)[:, BACKLIT]
