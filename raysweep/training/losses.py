"""The terms of a generator's loss: pure functions of tensors, differentiable in their first argument.

Whatever is called `original` is a target: no gradient flows into it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = [
    "adversarial_loss",
    "expression_feature_loss",
    "expression_logit_loss",
    "identity_loss",
    "reconstruction_loss",
]


def adversarial_loss(verdict: torch.Tensor, real: bool) -> torch.Tensor:
    """Least-squares GAN term: mean squared distance of the verdicts from 1 (`real`) or 0 (Mao et al., ICCV 2017, arXiv 1611.04076).

    Args:
        verdict: (n, ...) float, any range, of the discriminator.
        real: what the verdict should be: for the generator's step, real.

    Returns:
        scalar, 0 or more.
    """
    return (verdict - (1.0 if real else 0.0)).square().mean()


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference, the L1 term of pix2pix (Isola et al., CVPR 2017, arXiv 1611.07004).

    Args:
        output, target: (n, 3, H, W) float in [-1, 1].

    Returns:
        scalar in [0, 2].
    """
    return (output - target.detach()).abs().mean()


def identity_loss(embedding: torch.Tensor, original: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """Identity suppression: how far the similarity to the clear face exceeds what strangers have.

    mean(max(0, cos - margin)); without the hinge a generator would be paid for faces *opposite* to the person, which give the person away
    as surely as alike ones (compare the identity term of CIAGAN, CVPR 2020, and of Gafni et al., ICCV 2019).

    Args:
        embedding, original: (n, D) float, of the output and of the clear face; need not be normalised.
        margin: cosine up to which nothing is penalised.

    Returns:
        scalar in [0, 1 - margin].
    """
    cosine = F.cosine_similarity(embedding, original.detach(), dim=1)
    return (cosine - margin).clamp_min(0.0).mean()


def expression_logit_loss(logits: torch.Tensor, original: torch.Tensor, temperature: float = 2.0) -> torch.Tensor:
    """Knowledge distillation: KL(original || output) of the softened class probabilities, times T^2 (Hinton et al., arXiv 1503.02531).

    Args:
        logits, original: (n, K) float, of the output and of the clear face, from the same model.
        temperature: T above 0; larger looks at the lesser classes too.

    Returns:
        scalar, 0 or more.
    """
    target = F.log_softmax(original.detach() / temperature, dim=1)
    output = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(output, target, reduction="batchmean", log_target=True) * temperature**2


def expression_feature_loss(features: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Feature level: 1 - cosine of the expression model's penultimate features (as the perceptual loss of Johnson et al., arXiv 1603.08155).

    Args:
        features, original: (n, F) float, of the output and of the clear face, from the same model.

    Returns:
        scalar in [0, 2].
    """
    return (1.0 - F.cosine_similarity(features, original.detach(), dim=1)).mean()
