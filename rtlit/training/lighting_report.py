"""What the compact CLIP can tell: every number of `rtlit/weights/LIGHTING_CARD.md`.

Separation: P(backlit) of badly lit pictures against that of photographs left out of training. Exposure: the same
photographs from −4 to +2 EV, and how far they lie from "under-exposed" towards "over-exposed".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rtlit.errors import InputError
from rtlit.training.lighting import MAX_SCALE, Lighting, prepare, split
from rtlit.training.photos import find_photos, load_photos
from rtlit.training.simulate import expose

# Each class is the mean of its prompts' embeddings.
BACKLIT = ("a backlit photo", "a photo against the light", "a photo with a dark foreground")
WELL_LIT = ("a well-lit photo", "a photo in good light", "a well-exposed photo", "a properly lit photo")
UNDER = ("an under-exposed photo", "a dark photo", "a very dark photo")
OVER = ("an over-exposed photo", "a bright photo", "a very bright photo")
EXPOSURES = tuple(step / 2 for step in range(-8, 5))  # EV
_GAMMA = 2.2


@dataclass(frozen=True)
class Separation:
    """P(backlit) of one set against the photographs held out.

    Attributes:
        pictures: of the set. mean: their mean P(backlit).
        auc: chance that one of them scores above a held-out photograph (ties count half).
        recall: share above ½. accuracy: mean of that and of the held-out photographs' share below ½.
    """

    pictures: int
    mean: float
    auc: float
    recall: float
    accuracy: float


def report(
    lighting: Lighting, photos: Path, sets: Sequence[Path], one_in: int = 5, leave_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Plain numbers, for JSON.

    Args:
        photos: folder of well-lit photographs, of which those held out are taken.
        sets: folders of badly lit pictures.
        leave_out: shell patterns of names, without suffix, that don't count.

    Raises:
        InputError: a folder without pictures, none held out, or an unreadable picture.
    """
    _, held = split(find_photos([photos]), one_in)
    if not held:
        raise InputError(f"{photos}: none of its photographs is held out; give the folder that training had")
    pictures = load_photos(held, 1024)
    good = probability(lighting, embed(lighting, pictures))
    result: dict[str, Any] = {"held_out": {"pictures": len(held), "mean": float(good.mean())}}
    for folder in sets:
        paths = [path for path in find_photos([folder]) if not any(fnmatch(path.stem, each) for each in leave_out)]
        if not paths:
            raise InputError(f"{folder}: --leave-out leaves none of its pictures")
        bad = probability(lighting, embed(lighting, load_photos(paths, 1024)))
        result[str(folder)] = asdict(separation(bad, good)) | {"groups": groups(paths, bad, good)}
    return result | {"exposure": exposure(lighting, pictures)}


def embed(lighting: Lighting, pictures: Sequence[Tensor]) -> Tensor:
    """Unit embeddings [N, E] of 8-bit pictures [3, H, W] of any size."""
    squares = torch.cat([prepare(picture[None].float() / 255, lighting.image_size) for picture in pictures])
    with torch.inference_mode():
        return F.normalize(torch.cat([lighting.model.encode_image(each) for each in torch.split(squares, 64)]), dim=-1)


def anchor(lighting: Lighting, prompts: Sequence[str]) -> Tensor:
    """Unit mean embedding [E] of some prompts."""
    with torch.inference_mode():
        features = F.normalize(lighting.model.encode_text(lighting.tokenizer(list(prompts))), dim=-1)
    return F.normalize(features.mean(0), dim=0)


def probability(
    lighting: Lighting, features: Tensor, first: Sequence[str] = BACKLIT, second: Sequence[str] = WELL_LIT
) -> Tensor:
    """P(first) [N] of two classes of prompts: softmax of 100·cos."""
    return torch.sigmoid(MAX_SCALE * (features @ (anchor(lighting, first) - anchor(lighting, second))))


def separation(bad: Tensor, good: Tensor) -> Separation:
    """P(backlit) of badly lit pictures [N] against well-lit ones [M]."""
    difference = bad[:, None].double() - good.double()
    auc = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean()
    recall = (bad > 0.5).double().mean()
    accuracy = (recall + (good < 0.5).double().mean()) / 2
    return Separation(len(bad), float(bad.mean()), float(auc), float(recall), float(accuracy))


def groups(paths: Sequence[Path], bad: Tensor, good: Tensor) -> dict[str, dict[str, float]]:
    """The separation of pictures whose names begin with the same word, where there are five or more."""
    words = [match[0] if (match := re.match(r"[A-Za-z]+", path.stem)) else "" for path in paths]
    members = {word: torch.tensor([each == word for each in words]) for word in sorted(set(words))}
    return {word: asdict(separation(bad[mask], good)) for word, mask in members.items() if mask.sum() >= 5}


def exposure(lighting: Lighting, pictures: Sequence[Tensor]) -> dict[str, Any]:
    """The same photographs at every exposure, in linear light (gamma 2.2), clipped and rounded to 8 bits.

    "backlit" is the mean P(backlit), "dark" that among three classes: dark or backlit, well-lit, and over-exposed.
    "brightness" is the mean of cos(over) − cos(under); "rising" the share of half-stop steps that raise it, and
    "spearman" its mean rank correlation with EV.
    """
    features = [embed(lighting, [expose_codes(each, ev) for each in pictures]) for ev in EXPOSURES]
    axis = anchor(lighting, OVER) - anchor(lighting, UNDER)
    values = torch.stack([each @ axis for each in features], 1)  # [N, EVs]
    ranks = values.argsort(1).argsort(1).double().numpy()
    order = np.arange(len(EXPOSURES))
    spearman = np.mean([np.corrcoef(each, order)[0, 1] for each in ranks])
    p = [float(probability(lighting, each).mean()) for each in features]
    classes = torch.stack([anchor(lighting, prompts) for prompts in ((*BACKLIT, *UNDER), WELL_LIT, OVER)], 1)  # [E, 3]
    dark = [float((MAX_SCALE * each @ classes).softmax(1)[:, 0].mean()) for each in features]
    return {
        "ev": list(EXPOSURES),
        "backlit": p,
        "dark": dark,
        "brightness": values.mean(0).tolist(),
        "rising": float((values.diff(dim=1) > 0).double().mean()),
        "spearman": float(spearman),
    }


def expose_codes(picture: Tensor, ev: float) -> Tensor:
    """An 8-bit picture [3, H, W] at another exposure, as 8-bit codes."""
    light = expose((picture[None].float() / 255).pow(_GAMMA), torch.tensor(ev))[0]
    return (light.clamp(0, 1).pow(1 / _GAMMA) * 255).round().byte()
