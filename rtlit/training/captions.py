"""Captions about light: what was done to a picture and what it looks like, in many wordings.

A caption is made of phrases. Those about the light (`Light`) are known because the light was simulated; the
others (brightness, contrast, colour, where the dark lies) are measured on the picture. What the picture shows is
not known, and captions don't say it. The byte-pair merges of the tokenizer are learnt from the same phrases.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rtlit.training.simulate import luminance

_Phrases = tuple[str, ...]
KINDS = ("well-lit", "backlit", "under-exposed", "over-exposed", "hazy")

# Kind of light → what stands before "photo", and what follows it.
_ADJECTIVES = {
    "well-lit": ("well-lit", "well lit", "well-exposed", "correctly exposed", "evenly lit", "properly lit", "good"),
    "backlit": ("backlit", "back-lit", "backlit", "{degree} backlit", "{degree} backlit", "contre-jour"),
    "under-exposed": (
        "under-exposed", "underexposed", "dark", "low-light", "dim", "{degree} under-exposed", "{degree} dark",
        "{degree} underexposed", "{stops} under-exposed", "{stops} underexposed", "gloomy",
    ),
    "over-exposed": (
        "over-exposed", "overexposed", "too bright", "washed-out", "blown-out", "{degree} over-exposed",
        "{degree} overexposed", "{stops} over-exposed", "{stops} overexposed",
    ),
    "hazy": ("hazy", "foggy", "flat", "pale", "dull", "faded"),
}  # fmt: skip
_CLAUSES = {
    "well-lit": (
        "in good light", "in even light", "with good light", "in good exposure", "which is well lit", "well exposed",
        "with good lighting", "not backlit", "lit from the front",
    ),
    "backlit": (
        "against the light", "with light from behind", "with a dark foreground", "before a bright window",
        "before a bright sky", "with the sun behind the subject", "taken into the sun", "which is backlit",
        "in shadow before a bright background", "with the foreground in shadow", "lit from behind",
        "with a dark subject and a bright background", "as a silhouette", "the foreground {stops} too dark",
    ),
    "under-exposed": (
        "in low light", "in the dark", "with too little light", "at night", "which is under-exposed",
        "{stops} too dark", "with too short an exposure", "much too dark", "in bad light", "in dim light",
    ),
    "over-exposed": (
        "with too much light", "with clipped highlights", "with blown highlights", "which is over-exposed",
        "{stops} too bright", "with too long an exposure", "much too bright",
    ),
    "hazy": ("in haze", "in fog", "behind a veil", "with little contrast", "with flat light", "in flat light"),
}  # fmt: skip
_BADLY_LIT = ("badly lit", "poorly lit", "badly exposed")  # backlit, under- and over-exposed
_NOUNS = ("photo", "photo", "photo", "picture", "image", "photograph", "shot", "snapshot", "video frame")
_THINGS = ("", "", "", "", " of a scene", " of something", " of people", " of a person", " of a place", " of x")
_DEGREES = (("slightly", "a little", "mildly"), ("moderately", "quite", "clearly"), ("badly", "very", "strongly"),
            ("extremely", "severely", "heavily"))  # fmt: skip
_STOPS = ("half a stop", "one stop", "two stops", "three stops", "four stops", "five stops", "six stops")
_NOISE = (("clean", "without noise", "free of noise"), ("slightly noisy", "with a little noise"),
          ("noisy", "grainy", "with noise"), ("very noisy", "with a lot of noise"))  # fmt: skip
_BRIGHTNESS = (("very dark", "nearly black", "dark overall"), ("dark", "rather dark", "dark overall"),
               ("of medium brightness", "neither dark nor bright"), ("bright", "bright overall"),
               ("very bright", "nearly white", "bright overall"))  # fmt: skip
_CONTRAST = (("with low contrast", "with little contrast"), ("with normal contrast",),
             ("with high contrast", "with strong contrast", "with bright and dark parts"))  # fmt: skip
_COLOR = (("in cool colours", "bluish", "with a blue cast"), ("in warm colours", "yellowish", "with an orange cast"))
_SATURATION = (("without colour", "nearly grey", "in black and white"), ("in pale colours",),
               ("colourful", "in strong colours"))  # fmt: skip
_PLACES = (
    (("darker on the left", "bright on the right"), ("darker on the right", "bright on the left")),
    (("darker at the top", "bright at the bottom"),
     ("darker at the bottom", "bright at the top", "under a bright sky")),
    (("darker in the middle", "with a dark centre"), ("darker at the edges", "bright in the middle")),
)  # fmt: skip
# Words for those who write prompts, beside the captions' own.
_MORE = (
    "a an the of and with in at x not normal lighting exposure light shadow lamp room street face sky window indoor "
    "outdoor day daylight evening sunset morning landscape portrait enhanced natural illumination gray grey"
)


@dataclass(frozen=True)
class Light:
    """What was done to a picture.

    Attributes:
        kind: one of `KINDS`; None where it can't be told, and only what is measured is said.
        stops: how far from good exposure the picture, or its dark part, is, in EV without sign.
        degree: how much of it is seen, 0 (slight) … 3 (extreme).
        noise: 0 (none to be seen) … 3.
        warmth: cast that was added, log2 of red over blue; 0 for none.
    """

    kind: str | None
    stops: float = 0.0
    degree: int = 0
    noise: int = 0
    warmth: float = 0.0


def caption(light: Light, looks: list[_Phrases], rng: random.Random) -> str:
    """One wording of many. `looks`: what `measured` says of the picture."""
    noun = f"{rng.choice(_NOUNS)}{rng.choice(_THINGS)}"
    adjective, clauses = _of_light(light, rng) if light.kind and rng.random() < 0.88 else ("", [])
    extra = [rng.choice(words) for words in looks]
    if light.noise or rng.random() < 0.3:
        extra.append(rng.choice(_NOISE[light.noise]))
    if light.warmth:
        extra.append(rng.choice(_COLOR[light.warmth > 0]))
    rng.shuffle(extra)
    count = rng.choice((0, 0, 1, 2, 3)) if light.kind else rng.choice((1, 2, 3))
    text = " ".join(f"{adjective} {noun}".split())
    return ", ".join([f"{_article(text)} {text}", *clauses, *extra[:count]])


def measured(pictures: Tensor) -> list[list[_Phrases]]:
    """What is seen on each picture [B, 3, H, W], as lists of alternatives: brightness, contrast, saturation, places."""
    luma = luminance(pictures)
    mean, spread = luma.mean((1, 2, 3)), luma.flatten(1).std(1)
    chroma = (pictures.amax(1) - pictures.amin(1)).mean((1, 2)) / mean.clamp(min=0.05)
    thirds = F.adaptive_avg_pool2d(luma, 3)[:, 0]
    across = thirds[:, :, 2].mean(1) - thirds[:, :, 0].mean(1)
    down = thirds[:, 0].mean(1) - thirds[:, 2].mean(1)
    outwards = (thirds.sum((1, 2)) - thirds[:, 1, 1]) / 8 - thirds[:, 1, 1]
    rows = zip(*(each.tolist() for each in (mean, spread, chroma, across, down, outwards)), strict=True)
    return [_looks(*row) for row in rows]


def _looks(mean: float, spread: float, chroma: float, across: float, down: float, outwards: float) -> list[_Phrases]:
    looks: list[_Phrases] = [_BRIGHTNESS[sum(mean > edge for edge in (0.1, 0.27, 0.52, 0.75))]]
    if not 0.12 < spread < 0.22:
        looks.append(_CONTRAST[2 if spread > 0.26 else 1 if spread > 0.12 else 0])
    if not 0.2 < chroma < 0.6:
        looks.append(_SATURATION[2 if chroma > 0.6 else 1 if chroma > 0.06 else 0])
    limit = max(0.04, 0.35 * mean)
    places = ((across, _PLACES[0]), (down, _PLACES[1]), (outwards, _PLACES[2]))
    return looks + [words[difference < 0] for difference, words in places if abs(difference) > limit]


def _of_light(light: Light, rng: random.Random) -> tuple[str, list[str]]:
    """(adjective or "", clauses) that name the kind: one of the two, seldom both."""
    assert light.kind
    adjectives = _ADJECTIVES[light.kind]
    if light.kind in KINDS[1:4] and light.degree > 0 and rng.random() < 0.12:
        adjectives = _BADLY_LIT
    degree = rng.choice(_DEGREES[light.degree])
    stops = _STOPS[min(len(_STOPS) - 1, round(light.stops))]
    adjective, clause = (
        rng.choice(each).format(degree=degree, stops=stops) for each in (adjectives, _CLAUSES[light.kind])
    )
    draw = rng.random()
    return ("" if draw < 0.3 else adjective), ([clause] if draw < 0.45 else [])


def _article(text: str) -> str:
    return "an" if text[0] in "aeiou" else "a"


def words() -> Counter[str]:
    """Every word that a caption can hold, and how many phrases it stands in."""
    groups: list[_Phrases] = [*_ADJECTIVES.values(), *_CLAUSES.values(), *_DEGREES, *_NOISE, *_BRIGHTNESS, *_CONTRAST]
    groups += [*_COLOR, *_SATURATION, *(side for place in _PLACES for side in place)]
    text = " ".join(phrase for group in [*groups, _BADLY_LIT, _NOUNS, _THINGS, _STOPS, (_MORE,)] for phrase in group)
    return Counter(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", text)))


def learn_merges(counts: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al., ACL 2016), the most frequent pair first, until every word is one token.

    Symbols are letters, the last of a word with `</w>`, as open_clip's `SimpleTokenizer` has them.
    """
    spelled = {word: (*word[:-1], f"{word[-1]}</w>") for word in counts}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelled.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {word: _merge(symbols, best) for word, symbols in spelled.items()}


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)
