"""Extra supervision of the vision tower during training: what does each picture token cover?

A linear head, thrown away afterwards, reads from every vision vector the kind and colour of the
shape in its cell, the shape's box, and which cell it is.  Answers alone teach this too, but need
many more pictures to begin.  Boxes are read with the language model's own vectors for numbers, so
that what is learnt here can be copied into an answer.
"""

import numpy as np
import torch.nn.functional as F
from torch import nn

from scripts.train_scenes.scenes import CELL, COLOURS, KINDS

NOTHING = 0


def cell_labels(scene):
    """Integers [cells, 6] and floats [cells, 2] of one scene, cells row by row.

    The integers: kind and colour (0 for none), then the edges of the shape's box divided by two.
    The floats: the cell's own relative row and column.
    """
    rows, columns = scene.height // CELL, scene.width // CELL
    row, column = np.mgrid[:rows, :columns]
    labels = np.full((rows, columns, 6), NOTHING, dtype=np.int64)
    best = np.full((rows, columns), 0.12)  # the least share of a cell that counts
    for shape in scene.shapes:
        x1, y1, x2, y2 = (edge / CELL for edge in shape.box)
        width = np.clip(np.minimum(x2, column + 1) - np.maximum(x1, column), 0, None)
        height = np.clip(np.minimum(y2, row + 1) - np.maximum(y1, row), 0, None)
        mine = width * height > best
        best = np.maximum(best, width * height)
        names = KINDS.index(shape.kind) + 1, list(COLOURS).index(shape.colour) + 1
        labels[mine] = *names, *(edge // 2 for edge in shape.box)
    cells = np.stack([(row + 0.5) / rows, (column + 0.5) / columns], -1)
    return labels.reshape(-1, 6), cells.reshape(-1, 2).astype(np.float32)


class HintHead(nn.Module):
    """Vision vectors -> kind, colour, box and cell."""

    def __init__(self, size):
        super().__init__()
        self.sizes = (len(KINDS) + 1, len(COLOURS) + 1, 2)
        self.read = nn.Linear(size, sum(self.sizes))
        self.edges = nn.Linear(size, 4 * size)

    def loss(self, features, numbers, labels, cells):
        """Mean loss of vectors [N, size] against `cell_labels`, [N, 6] and [N, 2].

        numbers [M, size]: the language model's vectors of the even numbers 0, 2, 4, ...
        """
        kind, colour, cell = self.read(features).split(self.sizes, dim=-1)
        filled = labels[:, 0] != NOTHING
        edges = self.edges(features[filled]).view(-1, features.shape[-1]) @ numbers.T
        return (
            F.cross_entropy(kind, labels[:, 0])
            + F.cross_entropy(colour, labels[:, 1])
            + 0.5 * F.cross_entropy(edges, labels[filled, 2:].flatten())
            + 4 * F.smooth_l1_loss(cell, cells, beta=0.1)
        )
