"""The weights that ship with rtlit; MODEL_CARD.md says what each was trained on and how it scores."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

# File name → sha256; a test holds the files to it.
SHIPPED = {
    "curves.safetensors": "b13c54435ea607397fd770ab08eb3757c88090f9d4ffb6eecf486d0697c07ab1",
}
DEFAULT = _FOLDER / "curves.safetensors"
