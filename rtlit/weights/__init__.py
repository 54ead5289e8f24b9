"""The weights that ship with rtlit; MODEL_CARD.md says what each was trained on and how it scores."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

# File name → sha256; a test holds the files to it.
SHIPPED = {
    "curves.safetensors": "7916f11ca28a6241ba8a183498528e8f5e2a28db56d18836336cde50ba2a0de0",
}
DEFAULT = _FOLDER / "curves.safetensors"
