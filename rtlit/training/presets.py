"""Settings of the CLIP-LIT procedure (arXiv 2303.17569), and the presets: every constant of it is here."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rtlit.errors import InputError, UsageError

Settings = TypeVar("Settings")
LAYERS = 5


def _check_stages(stages: PromptStages | EnhancerStages) -> None:
    for name in ("initial_iterations", "iterations", "extensions"):
        _require(getattr(stages, name) >= 0, stages, name, "0 or more")
    _require(stages.extension >= 1, stages, "extension", "1 or more")
    _require(stages.size >= 16, stages, "size", "16 or more")
    _require(0 < stages.learning_rate < 1, stages, "learning_rate", "between 0 and 1")
    _require(0 <= stages.weight_decay < 1, stages, "weight_decay", "0 or more, below 1")


def _require(holds: bool, settings: object, name: str, wanted: str) -> None:
    if not holds:
        raise UsageError(f"{type(settings).__name__}.{name} = {getattr(settings, name)!r} must be {wanted}")


@dataclass(frozen=True)
class AugmentationSettings:
    """Random changes of a square picture, in this order; each with its probability.

    Attributes:
        flip: of mirroring, left to right and (a draw of its own) top to bottom.
        transpose: of swapping rows and columns.
        zoom: of stretching rows and columns, each by its own factor in `zoom_range`; borders are mirrored.
        rotation: of turning by an angle in ±`degrees`; borders are mirrored.
    """

    flip: float = 0.5
    transpose: float = 0.5
    zoom: float = 0.3
    zoom_range: tuple[float, float] = (0.7, 1.3)
    rotation: float = 0.3
    degrees: float = 90.0

    def __post_init__(self) -> None:
        for name in ("flip", "transpose", "zoom", "rotation"):
            _require(0 <= getattr(self, name) <= 1, self, name, "a probability, 0 to 1")
        _require(0 < self.zoom_range[0] <= self.zoom_range[1], self, "zoom_range", "two factors above 0, in order")


@dataclass(frozen=True)
class PromptStages:
    """Prompt initialisation and refinement.

    Attributes:
        initial_iterations: of prompt initialisation.
        iterations: of a refinement; `extension` more at a time while the loss is above `extend_above`, at most
            `extensions` times.
        batch: pictures of each set an iteration; half as many of each in initialisation.
        learning_rate, weight_decay: of Adam (L2, not decoupled).
        ranking_weight: factor on the sum of the margin ranking losses.
        size: pictures are stretched to size² pixels before CLIP sees them.
        variants: random augmentations of each picture whose features are computed, once; the first is the
            picture as it is.
    """

    initial_iterations: int = 8000
    iterations: int = 1000
    extension: int = 100
    extend_above: float = 60.0
    extensions: int = 10
    batch: int = 16
    learning_rate: float = 5e-6
    weight_decay: float = 1e-3
    ranking_weight: float = 200.0
    size: int = 256
    variants: int = 16
    augmentation: AugmentationSettings = field(default_factory=lambda: AugmentationSettings(zoom_range=(0.5, 1.5)))

    def __post_init__(self) -> None:
        _check_stages(self)
        _require(self.batch >= 2, self, "batch", "2 or more")
        _require(self.variants >= 1, self, "variants", "1 or more")
        _require(self.ranking_weight > 0, self, "ranking_weight", "above 0")


@dataclass(frozen=True)
class EnhancerStages:
    """Enhancer initialisation and enhancement guided by the prompts.

    Attributes:
        initial_iterations: of self-reconstruction, with `initial_identity_weight` and `initial_layer_weights`.
        iterations: of enhancement in a cycle; `extension` more at a time while the loss is above
            `extend_above`, at most `extensions` times.
        batch, size: pictures an iteration, stretched to size² pixels.
        learning_rate, weight_decay: of Adam (L2, not decoupled).
        guidance_weight: factor on the guidance's loss (the mean of P(backlit), or RAVE's).
        identity_weight: factor on the identity loss, beside `identity_batch` and `layer_weights`.
        roughness_weight: factor on the unevenness of the curves across the picture; the U-Net has none.
        identity_batch: the released code sums the identity loss over its batch of 8 and takes the mean of the
            other; the mean of both, times 8, is the same balance at every batch size.
        window, check_every: the enhancer's pictures are taken when the mean loss of the last `window`
            iterations is the least of this cycle, looked at every so many iterations.
        reseed_below, reseed_after, reseed_extension, reseeds: initialisation starts over from other random
            weights, with so many iterations more, when the mean PSNR (dB) of the window is below that after so
            many iterations; at most `reseeds` times.
    """

    initial_iterations: int = 1000
    iterations: int = 2100
    extension: int = 60
    extend_above: float = 90.0
    extensions: int = 35
    batch: int = 8
    learning_rate: float = 2e-5
    weight_decay: float = 1e-3
    size: int = 512
    guidance_weight: float = 320.0
    identity_weight: float = 0.9 * 25
    roughness_weight: float = 0.0
    layer_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 0.5)
    initial_identity_weight: float = 25.0
    initial_layer_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    identity_batch: int = 8
    window: int = 30
    check_every: int = 20
    reseed_below: float = 8.0
    reseed_after: int = 100
    reseed_extension: int = 100
    reseeds: int = 10
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

    def __post_init__(self) -> None:
        _check_stages(self)
        for name in ("batch", "iterations", "window", "check_every", "identity_batch"):
            _require(getattr(self, name) >= 1, self, name, "1 or more")
        for name in ("guidance_weight", "identity_weight", "roughness_weight", "initial_identity_weight"):
            _require(getattr(self, name) >= 0, self, name, "0 or more")
        for name in ("layer_weights", "initial_layer_weights"):
            _require(len(getattr(self, name)) == LAYERS, self, name, f"{LAYERS} weights")


@dataclass(frozen=True)
class ClipLitSettings:
    """The whole procedure: how many iterations of all stages together, and each stage's settings."""

    iterations: int = 50_000
    prompts: PromptStages = field(default_factory=PromptStages)
    enhancer: EnhancerStages = field(default_factory=EnhancerStages)

    def __post_init__(self) -> None:
        _require(self.iterations >= 1, self, "iterations", "1 or more")


PRESETS: dict[str, ClipLitSettings] = {
    "clip-lit": ClipLitSettings(),
    "fast": ClipLitSettings(
        iterations=12_000,
        prompts=PromptStages(2000, 400, 50, learning_rate=2e-5, variants=8),
        enhancer=EnhancerStages(500, 1000, 30, learning_rate=5e-5, size=256),
    ),
    # For a CPU and the compact CLIP. Prompts go as far in 300 iterations as in the paper's 8,000 and no further.
    "small": ClipLitSettings(
        iterations=1300,
        prompts=PromptStages(300, 50, 10, extensions=3, learning_rate=1.5e-4, size=128, variants=8),
        enhancer=EnhancerStages(150, 150, 10, extensions=5, learning_rate=2e-4, size=128),
    ),
}

# What differs from the paper's enhancer and guidance, over any preset. The curve network starts as the exact
# identity: there is nothing to initialise, and Adam with weight decay would shrink its weights meanwhile.
ENHANCERS: dict[str, dict[str, Any]] = {
    "curves": {"initial_iterations": 0, "learning_rate": 5e-4, "weight_decay": 0.0, "roughness_weight": 1000.0},
    "clip-lit-unet": {},
}
GUIDANCES: dict[str, dict[str, dict[str, Any]]] = {
    "prompts": {},
    "latent": {"prompts": {"learning_rate": 5e-4}},
    "residual": {"enhancer": {"guidance_weight": 1920.0}},
}


def preset(name: str = "clip-lit", enhancer: str = "curves", guidance: str = "prompts") -> ClipLitSettings:
    """The settings of a preset for an enhancer and a guidance.

    Raises:
        UsageError: no such preset, enhancer or guidance.
    """
    for table, key in ((PRESETS, name), (ENHANCERS, enhancer), (GUIDANCES, guidance)):
        if key not in table:
            raise UsageError(f"{key!r} is none of {', '.join(table)}")
    settings, changes = PRESETS[name], GUIDANCES[guidance]
    return replace(
        settings,
        prompts=replace(settings.prompts, **changes.get("prompts", {})),
        enhancer=replace(settings.enhancer, **ENHANCERS[enhancer] | changes.get("enhancer", {})),
    )


@dataclass(frozen=True)
class RunSettings:
    """A run, whole: with the same settings and pictures, a CPU gives the same weights.

    Attributes:
        backlit, well_lit: folders of photographs.
        clip, clip_weights, identity, identity_weights: as `load_clip` takes them: what guides, and what tells
            whether a picture is still the same.
        guidance: "prompts", "latent" or "residual". enhancer: "curves" or "clip-lit-unet".
        init: weights that the enhancer starts from.
        channels: curves of a new curve network: 1 that R', G' and B' share, as the paper's illumination map, or 3
            of their own, with which it learns to please CLIP by tinting shadows.
        seed: of weights and of every draw.
        every, samples_every: iterations between checkpoints and lines of the log, and between sample sheets of
            `samples` pictures.
        procedure: the stages.
    """

    backlit: str
    well_lit: str
    clip: str = "ViT-B-32"
    clip_weights: str | None = None
    identity: str = "RN101"
    identity_weights: str | None = None
    guidance: str = "prompts"
    enhancer: str = "curves"
    init: str | None = None
    channels: int = 1
    seed: int = 0
    every: int = 100
    samples_every: int = 1000
    samples: int = 6
    procedure: ClipLitSettings = field(default_factory=preset)

    def __post_init__(self) -> None:
        if min(self.every, self.samples_every, self.samples) < 1:
            got = f"{self.every}, {self.samples_every} and {self.samples}"
            raise UsageError(f"every, samples_every and samples must be 1 or more, not {got}")
        preset(enhancer=self.enhancer, guidance=self.guidance)  # they exist


def read_procedure(path: Path) -> ClipLitSettings:
    """A procedure from JSON, as `asdict` gives it; what a file leaves out is the paper's.

    Raises:
        InputError: no such file, or other JSON.
    """
    try:
        return from_json(ClipLitSettings, json.loads(path.read_text()))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); check --settings") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not settings of the procedure ({error}); start from --show-preset") from None


def from_json(kind: type[Settings], stored: Mapping[str, Any]) -> Settings:
    """A settings dataclass, with the ones inside it, from what `dataclasses.asdict` gave.

    Raises:
        TypeError, ValueError: unknown names, or values of another kind.
    """
    hints = typing.get_type_hints(kind)
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(stored.keys() - known):
        raise ValueError(f"unknown settings {', '.join(unknown)}")
    return kind(**{name: _restored(hints[name], value) for name, value in stored.items()})


def _restored(kind: Any, value: Any) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, value)
    if isinstance(value, list):
        return tuple(value)
    # JSON knows no ints in place of floats: 320 is fine for 320.0, but "320" for neither.
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    allowed = tuple(typing.get_origin(each) or each for each in kinds)
    if not isinstance(value, allowed) and not (float in allowed and isinstance(value, int)):
        raise ValueError(f"{value!r} is not {kind}")
    return value
