"""The weights that ship with rtlit."""

from __future__ import annotations

from pathlib import Path

DEFAULT = Path(__file__).parent / "curves.safetensors"
