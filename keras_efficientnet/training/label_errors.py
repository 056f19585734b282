"""Labels that are probably wrong: a linear probe that has not seen an image doubts its label.

The ranking is that of confident learning (Northcutt et al., "Confident Learning: Estimating
Uncertainty in Dataset Labels", https://arxiv.org/abs/1911.00068), by its authors' package cleanlab.
"""

import numpy as np

from keras_efficientnet.errors import InputError
from keras_efficientnet.training.probe import predict_unseen

# Suspects for each label error that is estimated, because estimates from a probe are rather low.
SUSPECTS = 1.5


def find_label_errors(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds images whose labels are probably wrong.

    Args:
        features: of a pretrained network, float `[count, features]`, see `extract_features`.
        labels: class indices, int `[count]`; classes of one image are not judged.
        groups: number of each image's group, int `[count]`, see `predict_unseen`.

    Returns:
        Indices of suspects, int `[suspects]`, the most probable first; and probabilities of the
        classes of every image, float `[count, classes]`, 0 for one that is not judged.

    Raises:
        InputError: if cleanlab is not installed, or fewer than two classes have two images.
    """
    try:
        from cleanlab.count import num_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise InputError(
            "Label errors are found with cleanlab; run: pip install 'efficientnet-keras3[check]'."
        ) from error
    counts = np.bincount(labels)
    common = np.flatnonzero(counts >= 2)
    if len(common) < 2:
        raise InputError("Label errors need two classes of at least two images each.")
    judged = np.flatnonzero(np.isin(labels, common))
    known = np.searchsorted(common, labels[judged])
    found = predict_unseen(features[judged], known, groups[judged])
    probabilities = np.zeros((len(labels), len(counts)))
    probabilities[np.ix_(judged, common)] = found
    # A label that the probe names itself is no suspect.
    doubted = found.argmax(1) != known
    limit = int(SUSPECTS * num_label_issues(known, found))
    order = np.argsort(get_label_quality_scores(known, found), kind="stable")
    return judged[order[doubted[order]][:limit]], probabilities
