"""Settings check themselves, and say what is wrong."""

from __future__ import annotations

import math

import pytest

from rtlit.errors import UsageError
from rtlit.settings import EnhanceSettings


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"strength": 0.0},
        {"strength": 2.0},
        {"smoothing": 0.0},
        {"estimate_every": 1},
        {"threads": 8},
        {"device": "cuda"},
    ],
    ids=str,
)
def test_good_settings(good: dict[str, object]) -> None:
    settings = EnhanceSettings(**good)  # type: ignore[arg-type]
    assert all(getattr(settings, name) == value for name, value in good.items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", -0.1), ("strength", 2.1), ("strength", math.nan),
        ("smoothing", -1.0), ("smoothing", math.inf), ("smoothing", math.nan),
        ("estimate_every", 0), ("threads", 0), ("threads", -2), ("device", "tpu"),
    ],
)  # fmt: skip
def test_bad_settings_are_named_with_their_value(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        EnhanceSettings(**{name: value})  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{name} must be ") and message.endswith(f", not {value!r}") and "\n" not in message
    assert caught.value.exit_code == 2


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        EnhanceSettings().strength = 0.5  # type: ignore[misc]
