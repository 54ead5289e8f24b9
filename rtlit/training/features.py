"""Embeddings of whole sets of pictures, in some random augmentations each; those of fixed sets are kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rtlit.training.clip import Clip
from rtlit.training.presets import PromptStages
from rtlit.training.runs import replace_file
from rtlit.training.unpaired import DRAWS, Squares, augment, generator_for

_BATCH = 8  # pictures at a time, in all their augmentations: 0.9 GB where the U-Net enhances them at 256²


@dataclass(frozen=True)
class SetFeatures:
    """Embeds sets of pictures in the augmentations of a run; the first of each picture is none at all.

    A picture's n-th augmentation is the same in every set, so that an enhanced picture and its input, which the
    ranking compares, are moved alike.
    """

    clip: Clip
    settings: PromptStages
    seed: int

    @torch.no_grad()
    def of(self, pictures: Squares, enhance: Callable[[Tensor], Tensor] | None = None, variants: int = 0) -> Tensor:
        """Unit-length embeddings [N, V, E], float32, on the device of the pictures.

        Args:
            enhance: what to do with the pictures first; rounded to 8 bits after it, as if saved and read.
            variants: V, only the first so many.
        """
        count = variants or self.settings.variants
        rows = []
        for start in range(0, len(pictures), _BATCH):
            which = range(start, min(start + _BATCH, len(pictures)))
            batch = pictures.batch(which)
            if enhance is not None:
                batch = (enhance(batch) * 255).round() / 255
            moved = torch.stack([self._augmented(batch, which, variant) for variant in range(count)], 1)
            rows.append(self.clip.encode_image(moved.flatten(0, 1)).reshape(len(batch), count, -1))
        return torch.cat(rows)

    def kept(self, pictures: Squares, digest: str, folder: Path) -> Tensor:
        """`of`, from a file in `folder` where there is one for just this CLIP, data, seed and settings."""
        about = [self.fingerprint(), digest, self.seed, pictures.size, self.settings.variants]
        key = json.dumps([*about, asdict(self.settings.augmentation)])
        path = folder / f"features-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        try:
            return load_file(path)["features"].to(pictures.device)
        except (OSError, SafetensorError, KeyError):  # none yet, or damaged: computed again
            features = self.of(pictures)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda part: save_file({"features": features.cpu().contiguous()}, part))
        return features

    def fingerprint(self) -> str:
        """sha256 over the CLIP's weights: a name says too little of a file."""
        digest = hashlib.sha256(self.clip.name.encode())
        for name, tensor in self.clip.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _augmented(self, batch: Tensor, which: range, variant: int) -> Tensor:
        if variant == 0:
            return batch
        draws = [torch.rand(DRAWS, generator=generator_for(self.seed, "set", index, variant)) for index in which]
        return augment(batch, torch.stack(draws), self.settings.augmentation)
