"""CLIPs of open_clip's own classes that fit in a test: every kind of text tower, and both kinds of image tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rtlit.training.clip_weights import import_open_clip

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32}
_VIT = {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
_CUSTOM = {"custom_text": True}

RESNET, VIT = "tiny-resnet", "tiny-vit"
CONFIGS: dict[str, dict[str, Any]] = {
    RESNET: {"vision_cfg": _RESNET, "text_cfg": _TEXT},  # OpenAI-style CLIP
    f"{RESNET}-quickgelu": {"vision_cfg": _RESNET, "text_cfg": _TEXT, "quick_gelu": True},
    VIT: {"vision_cfg": _VIT, "text_cfg": _TEXT},
    f"{VIT}-quickgelu": {"vision_cfg": _VIT, "text_cfg": _TEXT, "quick_gelu": True},
    "tiny-custom": {"vision_cfg": _VIT, "text_cfg": _TEXT, **_CUSTOM},
    "tiny-last": {  # as SigLIP's: no causal mask, read at the last token, projection with bias
        "vision_cfg": _VIT,
        "text_cfg": _TEXT | {"context_length": 64, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        **_CUSTOM,
    },
    "tiny-eos": {"vision_cfg": _VIT, "text_cfg": _TEXT | {"pool_type": "eos", "eos_id": 49407}, **_CUSTOM},
    "tiny-first": {"vision_cfg": _VIT, "text_cfg": _TEXT | {"no_causal_mask": True, "pool_type": "first"}, **_CUSTOM},
    "tiny-coca": {  # reads a class token that it appends
        "vision_cfg": _VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": _TEXT | {"context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": _TEXT | {"context_length": 76, "attn_pooler_heads": 2},
        **_CUSTOM,
    },
    "tiny-short": {"vision_cfg": _VIT, "text_cfg": _TEXT | {"context_length": 10}},
}


def register(folder: Path) -> Any:
    """Make them known to open_clip, so that `load_clip` loads them by name; returns open_clip."""
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 24, **config}))
    open_clip = import_open_clip()
    open_clip.add_model_config(folder)
    return open_clip
