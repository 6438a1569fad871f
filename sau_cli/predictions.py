"""What a classifier says of many images, in batches."""

from __future__ import annotations

import torch
from torch import Tensor

from sau_cli.classifier import Classifier, check_output
from sau_cli.devices import images_a_pass
from sau_cli.images import as_pixels
from sau_cli.model_state import evaluating


def predicted_logits(classifier: Classifier, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Logits (N, K) of images (N, C, H, W) uint8, in eval mode, on the classifier's device, without gradients.

    Raises:
        NotEvaluable: the network returns something else than finite logits of K classes.
    """
    device = classifier.mean.device
    parts = []
    with evaluating(classifier), torch.no_grad():
        for batch in images.split(images_a_pass(images, batch_size, device)):
            logits = classifier(as_pixels(batch.to(device)))
            check_output(classifier, logits)
            parts.append(logits)
    return torch.cat(parts)


def predicted_labels(classifier: Classifier, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """The top-1 class of each image: (N,) int64 on the classifier's device. See :func:`predicted_logits`."""
    return predicted_logits(classifier, images, batch_size=batch_size).argmax(dim=1)
