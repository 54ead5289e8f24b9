"""The weights that ship with rtlit; the cards beside them say what each was trained on and how it scores."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

# File name → sha256; a test holds the files to it.
SHIPPED = {
    "curves.safetensors": "7916f11ca28a6241ba8a183498528e8f5e2a28db56d18836336cde50ba2a0de0",
    "lighting-clip.safetensors": "9d8dfff677e31c78a363e87568f0485d7ef10cf16b05eef91ee15ff06f8eda11",
}
DEFAULT = _FOLDER / "curves.safetensors"
LIGHTING = _FOLDER / "lighting-clip.safetensors"
PROMPTS = _FOLDER / "lighting-prompts.safetensors"
