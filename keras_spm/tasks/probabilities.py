"""Probabilities of classes, and the names of those that are most probable."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def to_probabilities(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Returns the softmax of logits (batch, classes), or with `multi_label` their sigmoid."""
    if multi_label:
        return 0.5 * (1 + np.tanh(logits / 2))  # The sigmoid, without overflow.
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def most_probable(
    probabilities: np.ndarray, class_names: Sequence[str], top: int
) -> list[tuple[str, float]]:
    """Returns (class name, probability) of the `top` classes, the most probable first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(class_names[index], float(probabilities[index])) for index in order]


def label_title(label: Any, class_names: Sequence[str]) -> str:
    """Returns the name of a class; for soft or multiple labels, all names with their weights."""
    if np.ndim(label) == 0:
        return class_names[label]
    indices = [index for index in np.argsort(-label, kind="stable") if label[index] > 0]
    if not indices:
        return "none"
    if np.all(label[indices] == 1):
        return ", ".join(class_names[index] for index in indices)
    return ", ".join(f"{class_names[index]} {label[index]:.2f}" for index in indices)
