"""The losses, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rtlit.errors import UsageError
from rtlit.training.losses import Ranked, identity_loss, ranking_loss, refinement_pairs

INPUTS, REFERENCES = torch.tensor([0.9, 0.6]), torch.tensor([0.1, 0.3])
OLDER, NEWER = torch.tensor([0.5, 0.2]), torch.tensor([0.45, 0.35])


@pytest.mark.parametrize(
    ("enhanced", "loss"),
    [
        # 0.1 − 0.9 + 1, 0.3 − 0.6 + 1
        ([], (0.2 + 0.7) / 2),
        # input > reference by 0.9, input > enhanced by 0.9, enhanced > reference by 0.2 (0.1 − 0.5 + 0.2 < 0)
        ([OLDER], (0.1 + 0.6) / 2 + (0.5 + 0.5) / 2 + (0 + 0.3) / 2),
        # … input > older by 0.9, older > newer by 0.1, newer > reference by 0.1 (0.1 − 0.45 + 0.1 < 0)
        ([OLDER, NEWER], (0.1 + 0.6) / 2 + (0.5 + 0.5) / 2 + (0.05 + 0.25) / 2 + (0 + 0.05) / 2),
    ],
    ids=["round 0", "round 1", "later"],
)
def test_margins_of_the_rounds(enhanced: list[Tensor], loss: float) -> None:
    assert float(ranking_loss(refinement_pairs(INPUTS, REFERENCES, enhanced))) == pytest.approx(loss, rel=1e-6)


def test_ranking_pushes_apart_only_what_is_too_near() -> None:
    higher = torch.tensor([0.9, 0.5], requires_grad=True)
    lower = torch.tensor([0.1, 0.4], requires_grad=True)
    ranking_loss([Ranked(higher, lower, 0.3)]).backward()
    assert higher.grad is not None and lower.grad is not None
    assert higher.grad.tolist() == [0, -0.5] and lower.grad.tolist() == [0, 0.5]


def test_no_more_than_two_enhanced_sets() -> None:
    with pytest.raises(UsageError, match="last two"):
        refinement_pairs(INPUTS, REFERENCES, [OLDER, NEWER, NEWER])


def test_identity_loss_is_the_weighted_sum_of_means() -> None:
    stem = torch.tensor([[1.0, 2], [3, 4]]).reshape(1, 1, 2, 2)
    layer = torch.tensor([1.0, -1]).reshape(1, 2, 1, 1)
    # (1 + 4 + 9 + 16) / 4 = 7.5; (0 + 4) / 2 = 2
    loss = identity_loss([stem, layer], [torch.zeros_like(stem), torch.ones_like(layer)], [1.0, 0.5])
    assert float(loss) == 7.5 + 0.5 * 2


def test_identity_loss_does_not_hang_on_the_batch() -> None:
    ours, theirs = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)], [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)]
    once = identity_loss(ours, theirs, [1, 0.5])
    twice = identity_loss([x.repeat(2, 1, 1, 1) for x in ours], [x.repeat(2, 1, 1, 1) for x in theirs], [1, 0.5])
    torch.testing.assert_close(once, twice)
    assert float(identity_loss(ours, ours, [1, 0.5])) == 0


def test_every_layer_needs_its_weight() -> None:
    features = [torch.rand(1, 2, 3, 3)] * 2
    with pytest.raises(ValueError):
        identity_loss(features, features, [1.0])
