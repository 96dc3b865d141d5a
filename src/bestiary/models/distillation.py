"""Knowledge distillation: while a network learns the classes, it also learns the features of a pretrained backbone.

The features of a picture say more about it than its class. Only training needs them: they are not exported. After
Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", and Romero et al. 2014, "FitNets".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bestiary.array_types import Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler


class FeatureDistillation(nn.Module):
    """A linear layer from the network's average-pooled maps to the standardised features of the teacher, with the loss.

    The loss of a picture is `weight` times 1 minus the cosine similarity, from 0 to 2 times `weight`.
    """

    def __init__(self, channels: int, features: FeatureMatrix, *, weight: float, seed: int) -> None:
        """channels: of the network's maps. features: of the teacher (n, teacher's channels), by training row."""
        super().__init__()
        self.weight, self._features = weight, features
        self._mean, self._scale = fit_scaler(features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Linear(channels, features.shape[1])

    def sum_losses(self, maps: Tensor, rows: Ints) -> Tensor:
        """Return the sum of the losses of training pictures.

        maps: of the network (n, channels, h, w). rows: int64 (n,), indices into the teacher's features.
        """
        standardised = (self._features[rows].astype("float32") - self._mean) / self._scale
        targets = torch.from_numpy(standardised).to(maps.device)
        similarity = functional.cosine_similarity(self.projection(maps.float().mean(dim=(2, 3))), targets, dim=1)
        return self.weight * (1 - similarity).sum()
