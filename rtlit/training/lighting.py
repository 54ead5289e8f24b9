"""rtlit-lighting: a compact CLIP that knows light, trained on photographs in four simulated lights and captions.

open_clip's own CLIP class (ModifiedResNet and a text transformer) and its contrastive loss, with a vocabulary
of the captions' words. `rtlit/weights/LIGHTING_CARD.md` says what the shipped weights are good for.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from rtlit import __version__
from rtlit.errors import InputError, UsageError, WeightsError
from rtlit.network import read_safetensors
from rtlit.training.captions import caption, learn_merges, measured, words
from rtlit.training.clip_weights import import_open_clip
from rtlit.training.lights import LIGHTS, four_lights
from rtlit.training.photos import find_photos, fingerprint, load_photos, random_crops
from rtlit.training.runs import (
    CHECKPOINT,
    LOG,
    SETTINGS,
    append_row,
    forget_after,
    load_checkpoint,
    make_run,
    read_json,
    replace_file,
    save_checkpoint,
)
from rtlit.training.supervised import one_cycle
from rtlit.weights import LIGHTING

WEIGHTS = "lighting-clip.safetensors"
MEAN, STD = (0.45, 0.45, 0.45), (0.27, 0.27, 0.27)
MAX_SCALE = 100.0  # of the cosine in the softmax, as OpenAI's CLIP ends with and prompt learning assumes
_FORMAT = "rtlit-lighting-clip/1"


@dataclass(frozen=True)
class LightingConfig:
    """Dimensions of the two towers; they travel in the weights file.

    Attributes:
        image_size: side of the square that pictures are stretched to, a multiple of 32.
        layers, width, head_width: of the ModifiedResNet; its features are 2·width, 4·width … 32·width.
        embed_dim: E, of the embeddings.
        context_length: tokens of a text, with start and end.
        text_width, text_heads, text_layers: of the text transformer.
    """

    image_size: int = 96
    layers: tuple[int, int, int, int] = (1, 1, 1, 1)
    width: int = 16
    head_width: int = 64
    embed_dim: int = 256
    context_length: int = 40
    text_width: int = 128
    text_heads: int = 4
    text_layers: int = 2

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise UsageError(f"image_size must be a multiple of 32, not {self.image_size}")
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise UsageError(f"layers must be four numbers of 1 or more, not {self.layers}")
        if self.width % 2 or self.width * 32 % self.head_width or self.text_width % self.text_heads:
            raise UsageError(f"width ({self.width}) and text_width ({self.text_width}) must divide into heads")


@dataclass(frozen=True)
class LightingSettings:
    """One training run, whole.

    Attributes:
        iterations, batch: length of the run, and pictures an iteration: a fourth as many crops, each in four lights.
        learning_rate, weight_decay: AdamW; peak of the one-cycle schedule.
        held_out: photographs that are left out: one in so many, by the hash of the name; 0 for none.
        bfloat16: the towers in bfloat16, which is faster on CPUs that have it.
        seed: of the weights and of every draw.
    """

    iterations: int = 2000
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    held_out: int = 5
    bfloat16: bool = False
    seed: int = 0
    model: LightingConfig = field(default_factory=LightingConfig)

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UsageError(f"iterations must be 1 or more, not {self.iterations}")
        if self.batch < 2 * LIGHTS or self.batch % LIGHTS:
            raise UsageError(f"batch must be a multiple of {LIGHTS}, at least {2 * LIGHTS}, not {self.batch}")
        if not 0 < self.learning_rate < 1 or not 0 <= self.weight_decay < 1:
            got = f"{self.learning_rate} and {self.weight_decay}"
            raise UsageError(f"learning_rate and weight_decay must be between 0 and 1, not {got}")
        if self.held_out < 0 or self.held_out == 1:
            raise UsageError(f"held_out must be 0 (none) or 2 and more, not {self.held_out}")


class Lighting(NamedTuple):
    """The model, ready to use: float32, on the CPU, frozen, in evaluation mode."""

    model: Any  # open_clip.CLIP
    tokenizer: Any  # open_clip's SimpleTokenizer: texts → [B, L]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class LightingStep(NamedTuple):
    """What `train_lighting` reports: means since the last report. `accuracy`: share of pictures whose own caption
    is the nearest of the batch's."""

    iteration: int
    iterations: int
    loss: float
    accuracy: float
    seconds: float
    seconds_left: float


def load_lighting(path: Path | None = None) -> Lighting:
    """Read the compact CLIP; the shipped one unless another file is given.

    Raises:
        WeightsError: no such file, not safetensors, or for another network. RtlitError: open_clip isn't installed.
    """
    path = path or LIGHTING
    about, state = read_safetensors(path, "no such weights file; check the path")
    if about.get("format") != _FORMAT:
        raise WeightsError(f"{path}: not a lighting CLIP (format {about.get('format')!r}, expected {_FORMAT!r})")
    try:
        config = LightingConfig(**json.loads(about["config"]))
        tokenizer = make_tokenizer(json.loads(about["merges"]), config.context_length)
        model = make_model(config, tokenizer.vocab_size)
        model.load_state_dict(state)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged weights ({' '.join(str(error).split())[:200]})") from None
    return Lighting(model.float().eval().requires_grad_(False), tokenizer, config.image_size, MEAN, STD)


def make_model(config: LightingConfig, vocab_size: int) -> Any:
    """open_clip's CLIP of these dimensions, with random weights."""
    open_clip = import_open_clip()
    tower = {"layers": list(config.layers), "width": config.width, "head_width": config.head_width}
    text = {"context_length": config.context_length, "vocab_size": vocab_size, "width": config.text_width}
    text |= {"heads": config.text_heads, "layers": config.text_layers}
    model = open_clip.CLIP(config.embed_dim, {**tower, "image_size": config.image_size}, text)
    model.visual.image_mean, model.visual.image_std = MEAN, STD
    return model


def make_tokenizer(merges: Sequence[str], context_length: int) -> Any:
    """open_clip's tokenizer with byte-pair merges of its own, each "left right"."""
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    # Its reader skips the first line, a version.
    data = gzip.compress("\n".join(["#version: rtlit", *merges]).encode(), mtime=0)
    return SimpleTokenizer(bpe_path=BytesIO(data), context_length=context_length)


def prepare(pictures: Tensor, image_size: int) -> Tensor:
    """Pictures [B, 3, H, W] in 0 … 1 → stretched to a square (bicubic, antialiased) and normalised."""
    if pictures.shape[-2:] != (image_size, image_size):
        pictures = F.interpolate(pictures, (image_size, image_size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(each).to(pictures)[:, None, None] for each in (MEAN, STD))
    return (pictures - mean) / std


def split(paths: Sequence[Path], one_in: int) -> tuple[list[Path], list[Path]]:
    """(to train on, held out): one in so many is held out, by the hash of its name, wherever it lies."""
    held = {path for path in paths if one_in and hashlib.sha256(path.name.encode()).digest()[0] % one_in == 0}
    return [path for path in paths if path not in held], sorted(held)


def train_lighting(
    folders: Sequence[Path],
    run: Path,
    settings: LightingSettings | None = None,
    *,
    resume: bool = False,
    every: int = 100,
    on_step: Callable[[LightingStep], None] | None = None,
) -> Path:
    """Train, or go on training, in a run folder.

    The folder holds `settings.json`, `log.jsonl`, `checkpoint.pt` and `lighting-clip.safetensors` (half precision), the
    last two replaced whole every `every` iterations. Every draw of an iteration depends on the seed and the
    iteration alone, so a run that was stopped and resumed ends as if it never stopped.

    Args:
        folders: folders of well-lit photographs.
        run: folder to make, or to go on with.
        settings: default when None; must be None or the same when resuming.

    Returns:
        The path of the weights.

    Raises:
        InputError: no pictures, unreadable ones, or nothing to resume. OutputError: the run folder exists
        already or can't be written.
    """
    if resume:
        stored = _read_settings(run / SETTINGS)
        if settings not in (None, stored):
            raise UsageError(f"{run}: was started with other settings; resume without settings")
        settings = stored
    settings = settings or LightingSettings()
    paths, _ = split(find_photos(folders), settings.held_out)
    if len(paths) < 2:
        raise InputError(f"{folders[0]}: {len(paths)} photographs to train on; give more, or --held-out 0")
    trainer = _Trainer(settings, load_photos(paths, 3 * settings.model.image_size), run, fingerprint(paths))
    if resume:
        trainer.restore()
    else:
        make_run(run, asdict(settings))
    trainer.train(every, on_step)
    return run / WEIGHTS


class _Trainer:
    def __init__(self, settings: LightingSettings, photos: list[Tensor], run: Path, data: str) -> None:
        self.settings, self.photos, self.run, self.data = settings, photos, run, data
        self.merges = [" ".join(pair) for pair in learn_merges(words())]
        self.tokenizer = make_tokenizer(self.merges, settings.model.context_length)
        torch.manual_seed(settings.seed)
        self.model = make_model(settings.model, self.tokenizer.vocab_size).train()
        self.model.logit_scale.requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.05  # The statistics that evaluation uses are those of 20 batches.
        self.loss = import_open_clip().ClipLoss()
        self.optimizer = torch.optim.AdamW(self._groups(), settings.learning_rate)
        self.iteration = 0

    def _groups(self) -> list[dict[str, Any]]:
        learnt = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        flat = [parameter for parameter in learnt if parameter.ndim < 2]
        matrices = [parameter for parameter in learnt if parameter.ndim >= 2]
        decay = self.settings.weight_decay
        return [{"params": matrices, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]

    def train(self, every: int, on_step: Callable[[LightingStep], None] | None) -> None:
        sums, count, started = [0.0, 0.0], 0, time.perf_counter()
        while self.iteration < self.settings.iterations:
            sums = [a + b for a, b in zip(sums, self.step(), strict=True)]
            count += 1
            if self.iteration % every == 0 or self.iteration == self.settings.iterations:
                seconds = time.perf_counter() - started
                means = [each / count for each in sums]
                left = (self.settings.iterations - self.iteration) * seconds / count
                step = LightingStep(self.iteration, self.settings.iterations, means[0], means[1], seconds, left)
                self.save(step)
                if on_step:
                    on_step(step)
                sums, count, started = [0.0, 0.0], 0, time.perf_counter()

    def step(self) -> tuple[float, float]:
        """One iteration: (loss, accuracy)."""
        settings, progress = self.settings, self.iteration / self.settings.iterations
        pictures, tokens = self.batch()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(progress)
        # A scale that grows: at 100 from the start nothing is learnt.
        self.model.logit_scale.data.fill_(math.log(1 / 0.07) + min(1.0, progress / 0.4) * math.log(MAX_SCALE * 0.07))
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            image = self.model.encode_image(prepare(pictures, settings.model.image_size))
            text = self.model.encode_text(tokens)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        loss = self.loss(image, text, self.model.logit_scale.exp())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        nearest = (image @ text.T).argmax(1) == torch.arange(len(image))
        return loss.item(), nearest.float().mean().item()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, S, S] and their captions' tokens [B, L]."""
        seed, side = self.settings.seed * 1_000_003 + self.iteration, self.settings.model.image_size
        generator = torch.Generator().manual_seed(seed)
        size = (side, round(side * (1.0, 1.33, 1.5, 1.78)[self.iteration % 4]))
        size = size if self.iteration // 4 % 3 else (size[1], size[0])
        crops = random_crops(self.photos, size, self.settings.batch // LIGHTS, generator)
        crops = F.interpolate(crops, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        pictures, lights = four_lights(crops, generator)
        rng = random.Random(seed)
        texts = [caption(light, looks, rng) for light, looks in zip(lights, measured(pictures), strict=True)]
        return pictures, self.tokenizer(texts)

    def save(self, step: LightingStep) -> None:
        model = self.model.state_dict()
        state = {"iteration": self.iteration, "data": self.data, "model": model}
        about = {
            "format": _FORMAT,
            "config": json.dumps(asdict(self.settings.model)),
            "merges": json.dumps(self.merges),
            "rtlit": __version__,
            "torch": torch.__version__,
            "training": json.dumps(asdict(self.settings)),
            "iteration": str(self.iteration),
            "photographs_sha256": self.data,
        }
        half = {name: value.half() if value.is_floating_point() else value for name, value in model.items()}
        save_checkpoint(self.run, {**state, "optimizer": self.optimizer.state_dict()})
        replace_file(self.run / WEIGHTS, lambda part: save_file(half, part, about))
        append_row(self.run / LOG, step._asdict())

    def restore(self) -> None:
        load_checkpoint(self.run, self._take)
        forget_after(self.run / LOG, self.iteration)

    def _take(self, state: dict[str, Any]) -> None:
        if state["data"] != self.data:
            raise InputError(f"{self.run / CHECKPOINT}: was trained on other photographs; resume with the same folders")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]


def _read_settings(path: Path) -> LightingSettings:
    stored = read_json(path)
    try:
        model = stored.pop("model")
        model["layers"] = tuple(model["layers"])
        return LightingSettings(model=LightingConfig(**model), **stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the settings of a run ({error})") from None
