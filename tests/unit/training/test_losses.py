from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from raysweep.training.losses import (
    adversarial_loss,
    expression_feature_loss,
    expression_logit_loss,
    identity_loss,
    reconstruction_loss,
)

F64 = torch.float64


def test_adversarial_is_the_squared_distance() -> None:
    verdict = torch.tensor([[0.0, 1.0], [0.5, 2.0]])
    assert adversarial_loss(verdict, real=True).item() == pytest.approx((1 + 0 + 0.25 + 1) / 4)
    assert adversarial_loss(verdict, real=False).item() == pytest.approx((0 + 1 + 0.25 + 4) / 4)


def test_reconstruction_is_the_mean_absolute_difference() -> None:
    assert reconstruction_loss(torch.full((2, 3, 4, 4), 0.25), torch.full((2, 3, 4, 4), -0.5)).item() == 0.75


def test_identity_counts_only_what_exceeds_the_margin() -> None:
    original = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    output = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])  # cosines 1, 0, -1
    assert identity_loss(output, original).item() == pytest.approx(1 / 3)
    assert identity_loss(output, original, margin=0.4).item() == pytest.approx(0.6 / 3)
    opposite = torch.tensor([[-1.0, 0.1]], requires_grad=True)
    identity_loss(opposite, original[:1]).backward()
    assert opposite.grad is not None
    assert opposite.grad.abs().max() == 0


def test_logit_loss_is_the_softened_kl() -> None:
    original, output = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.5]])
    p, q = (original / 2).softmax(1), (output / 2).softmax(1)
    expected = 4 * (p * (p / q).log()).sum()
    assert expression_logit_loss(output, original, temperature=2.0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert expression_logit_loss(original, original).item() == pytest.approx(0.0, abs=1e-7)


def test_feature_loss_ignores_length() -> None:
    features = torch.randn(4, 9)
    assert expression_feature_loss(3 * features, features).item() == pytest.approx(0.0, abs=1e-6)
    assert expression_feature_loss(-features, features).item() == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    "loss",
    [reconstruction_loss, identity_loss, expression_logit_loss, expression_feature_loss],
)
def test_gradients_are_right_and_stop_at_the_original(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    random = torch.Generator().manual_seed(0)
    output = torch.randn(3, 5, generator=random, dtype=F64, requires_grad=True)
    original = torch.randn(3, 5, generator=random, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, original.detach()), (output,))
    loss(output, original).backward()
    assert output.grad is not None
    assert output.grad.abs().sum() > 0
    assert original.grad is None


def test_adversarial_gradient() -> None:
    verdict = torch.randn(2, 1, 3, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: adversarial_loss(x, real=True), (verdict,))
