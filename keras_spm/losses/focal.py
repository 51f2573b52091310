"""Focal loss, for classes that are nearly always absent."""

from keras import ops


def sigmoid_focal_loss(targets, logits, alpha=0.25, gamma=2.0):
    """Cross-entropy of independent classes, with less weight on what is easy.

    With p the probability that the logit gives to the target, a loss is
    `-weight * (1 - p)**gamma * log(p)`; the weight is `alpha` for a target of 1 and
    `1 - alpha` for 0.

    Args:
        targets: any shape, each 0 or 1, of any dtype.
        logits: the same shape.
        alpha: float from 0 to 1.
        gamma: float, at least 0; 0 is plain cross-entropy.

    Returns:
        The same shape, float32: one loss per logit.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, equation 5.
    """
    targets, logits = ops.cast(targets, "float32"), ops.cast(logits, "float32")
    weights = alpha * targets + (1 - alpha) * (1 - targets)
    toward_target = (2 * targets - 1) * logits
    # From logarithms: a power has no finite gradient where 1 - p is rounded to 0.
    hardness = ops.exp(gamma * ops.log_sigmoid(-toward_target))
    return -weights * hardness * ops.log_sigmoid(toward_target)
