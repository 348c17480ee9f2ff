"""A model of which it is known what it looks at: one region of the image."""

import torch
from torch import nn

from deepspectrumlite.model import Classifier

ROWS, COLUMNS = slice(4, 12), slice(18, 28)  # of an image of 32 x 32


class Region(nn.Module):
    """A backbone whose first feature is the mean of a region of the image, the second the rest."""

    def __init__(self, size, rows=ROWS, columns=COLUMNS):
        super().__init__()
        inside = torch.zeros(1, 1, *size)
        inside[:, :, rows, columns] = 1
        self.network = nn.Sequential(Parted(inside), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = 2

    def forward(self, image):
        return self.network(image)


class Parted(nn.Module):
    """(batch, 3, height, width) -> (batch, 2, ...): grey within the region, and without it."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, image):
        grey = image.mean(dim=1, keepdim=True)
        return torch.cat([grey * self.inside, grey * (1 - self.inside)], dim=1)


def look_at_region(recipe, *, weight=60.0, rows=ROWS, columns=COLUMNS):
    """A classifier of "there" and "not", by how bright a region of the image is."""
    model = Classifier(recipe, ["there", "not"], weights="random").eval()
    size = (recipe.frontend.image_height, recipe.frontend.image_width)
    model.backbone = Region(size, rows, columns)
    model.head = nn.Linear(2, model.n_outputs)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.weight[0, 0] = weight
        model.head.bias[1:] = -1  # else "not" would stand on its threshold
    return model
