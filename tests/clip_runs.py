"""Small runs of the CLIP-LIT procedure for tests: made-up photographs, tiny networks, a few iterations a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rtlit.training.presets import ClipLitSettings, EnhancerStages, PromptStages, RunSettings

# 4 of prompt and 3 of enhancer initialisation; rounds of 6 + 4, that may be extended by 2 and 1: 30 reach round 3.
PROMPTS = PromptStages(4, 4, 1, 60.0, 1, batch=4, learning_rate=1e-3, size=32, variants=3)
ENHANCER = EnhancerStages(
    3, 6, 2, 90.0, 1, batch=2, learning_rate=1e-3, weight_decay=0.0, size=32, window=3, check_every=2
)
SHORT = ClipLitSettings(30, PROMPTS, ENHANCER)


def make_folders(folder: Path, count: int = 5) -> tuple[Path, Path]:
    """Two folders of smooth colours, dark ones with a bright patch and bright ones."""
    rng = np.random.default_rng(0)
    for name, low, high in (("backlit", 0, 60), ("well-lit", 90, 250)):
        (folder / name).mkdir()
        for index in range(count):
            codes = rng.integers(low, high, (5, 5, 3), np.uint8)
            codes[:2, :2] = 240
            size = (40, 60) if index % 2 else (60, 40)
            Image.fromarray(codes).resize(size, Image.Resampling.BICUBIC).save(folder / name / f"{index}.png")
    return folder / "backlit", folder / "well-lit"


def tiny_settings(folders: tuple[Path, Path], **changes: Any) -> RunSettings:
    """A run with the tiny CLIP of `tiny_clips`, which must be registered."""
    tiny = {"clip": "tiny-resnet", "clip_weights": "random", "identity": "tiny-resnet", "identity_weights": "random"}
    rest = {"every": 5, "samples_every": 20, "samples": 2, "procedure": SHORT}
    return RunSettings(str(folders[0]), str(folders[1]), **(tiny | rest | changes))
