"""What a test part says of a classifier: top-1 accuracy, Matthews' correlation, log loss, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, matthews_corrcoef

from experiments.genomics.classifier_training import log_loss

BINS = 10


def judge(logits: Float[np.ndarray, "N classes"], labels: Int[np.ndarray, "N"]) -> dict[str, Any]:
    """All of a part's metrics, as JSON values.

    Args:
        logits: of the model.
        labels: the classes.

    Returns:
        "accuracy", "mcc", "log_loss"; "calibration": mean confidence and accuracy of each tenth of the sequences, by
        rising confidence in the predicted class; and "calibration_error", the mean distance of the two.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    right = (predicted == labels).astype(int)
    accuracy, confidence = calibration_curve(
        right, probabilities.max(axis=1), n_bins=BINS, strategy="quantile"
    )
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "mcc": float(matthews_corrcoef(labels, predicted)),
        "log_loss": log_loss(logits, labels),
        "calibration": [[float(c), float(a)] for c, a in zip(confidence, accuracy, strict=True)],
        "calibration_error": float(np.abs(confidence - accuracy).mean()),
    }
