"""Focal loss, for classes that are nearly always absent."""

from keras import ops

from keras_spm.types import Tensor


def sigmoid_focal_loss(
    targets: Tensor, logits: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Computes the binary cross-entropy of each logit, weighted down for easy examples.

    With p the predicted probability of the target, the loss is
    `-weight * (1 - p)**gamma * log(p)`. The weight is `alpha` for a target of 1 and
    `1 - alpha` for 0.

    Args:
        targets, logits: of the same shape; targets are 0 or 1.
        alpha: float from 0 to 1.
        gamma: float, at least 0; 0 is plain cross-entropy.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, equation 5.
    """
    targets, logits = ops.cast(targets, "float32"), ops.cast(logits, "float32")
    weights = alpha * targets + (1 - alpha) * (1 - targets)
    signed_logits = (2 * targets - 1) * logits
    # From logarithms: the gradient of a power is not finite where 1 - p rounds to 0.
    modulation = ops.exp(gamma * ops.log_sigmoid(-signed_logits))
    return -weights * modulation * ops.log_sigmoid(signed_logits)
