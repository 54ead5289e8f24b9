"""Prompts that learn: two sequences of token embeddings, "backlit" and "well-lit", for the frozen text transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rtlit.training.clip import Clip

WORDS = 16
BACKLIT, WELL_LIT = 0, 1


class Prompts(nn.Module):
    """Two learnable token-embedding sequences, index 0 backlit and 1 well-lit (CLIP-LIT §3.1).

    The whole sequences are parameters, start, end and padding included. Under the causal mask of most text towers the
    result is read at the end token, so that the padding after it has no gradient.

    Args:
        embeddings: [2, L, W] to start from.
        tokens: [2, L] that they stand for: where the text ends.
    """

    tokens: Tensor

    def __init__(self, embeddings: Tensor, tokens: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings.detach().clone())
        self.register_buffer("tokens", tokens.detach().clone())

    def forward(self, clip: Clip) -> Tensor:
        """Unit-length text embeddings [2, E] in the CLIP they were made for."""
        return clip.encode_embeddings(self.embeddings, self.tokens)


def make_prompts(clip: Clip, words: int = WORDS) -> Prompts:
    """Prompts that start as the token "X" `words` times over, both alike, as in the released code.

    Fewer where the context of the text tower, which needs a start and an end as well, is shorter.
    """
    text = " ".join(["X"] * min(words, clip.context_length - 2))
    tokens = clip.tokenize([text, text])
    with torch.no_grad():
        return Prompts(clip.embed_tokens(tokens), tokens)
