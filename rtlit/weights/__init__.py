"""The weights that ship with rtlit; the cards beside them say what each was trained on and how it scores."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

# File name → sha256; a test holds the files to it.
SHIPPED = {
    "curves.safetensors": "fc4f6dddbf3da3bb60222ee1bed2edf742dae5848adfdec46427a8baeea274a2",
    "lighting-clip.safetensors": "e997e1ae7415b87362b60550a79045fec835961c56693cfc86618dcd1bd6f4f8",
    "lighting-prompts.safetensors": "a3dd2adebe4f9e0eaf6c415944fee635efde295b1911eb045e0a558b72ed5cfb",
}
DEFAULT = _FOLDER / "curves.safetensors"
LIGHTING = _FOLDER / "lighting-clip.safetensors"
PROMPTS = _FOLDER / "lighting-prompts.safetensors"
