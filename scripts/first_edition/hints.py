"""Extra supervision of the vision encoder during training: what does each image token cover?

A linear head, thrown away afterwards, reads from every vision vector the kind and colour of the
shape in its cell, the shape's box, the character in its cell, and which cell it is.  Answers alone
teach this too, but need many more images to begin.  Boxes are read with the language model's own
vectors for numbers, so that what is learnt here can be copied into an answer.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scripts.first_edition.scenes import CELL, COLOURS, HELD_OUT, KINDS
from scripts.first_edition.words import CHARACTERS, Word

NOTHING = 0
UNNAMED = -100  # the kind or colour has no name: the head is not asked for it


def _index(name, names):
    return list(names).index(name) + 1 if name else UNNAMED


def cell_labels(seen):
    """Integers [cells, 7] and floats [cells, 2] of one scene or word, cells row by row.

    The integers: kind, colour and character (0 for none), then the edges of the shape's box
    divided by two.  The floats: the cell's own relative row and column.
    """
    rows, columns = seen.height // CELL, seen.width // CELL
    row, column = np.mgrid[:rows, :columns]
    if isinstance(seen, Word):
        names = [(NOTHING, NOTHING, _index(c, CHARACTERS), 0, 0, 0, 0) for c in seen.text]
        boxes = seen.boxes
    else:
        names = [
            (_index(s.kind, KINDS), _index(s.colour, COLOURS), NOTHING, *(e // 2 for e in s.box))
            for s in seen.shapes
        ]
        boxes = [s.box for s in seen.shapes]
    labels = np.full((rows, columns, 7), NOTHING, dtype=np.int64)
    best = np.full((rows, columns), 0.12)  # the least share of a cell that counts
    for name, box in zip(names, boxes, strict=True):
        x1, y1, x2, y2 = (edge / CELL for edge in box)
        width = np.clip(np.minimum(x2, column + 1) - np.maximum(x1, column), 0, None)
        height = np.clip(np.minimum(y2, row + 1) - np.maximum(y1, row), 0, None)
        mine = width * height > best
        best = np.maximum(best, width * height)
        labels[mine] = name
    cells = np.stack([(row + 0.5) / rows, (column + 0.5) / columns], -1)
    return labels.reshape(-1, 7), cells.reshape(-1, 2).astype(np.float32)


class HintHead(nn.Module):
    """Vision vectors -> kind, colour, character, box and cell."""

    def __init__(self, size):
        super().__init__()
        self.sizes = (len(KINDS) + 1, len(COLOURS) + 1, len(CHARACTERS) + 1, 2)
        self.read = nn.Linear(size, sum(self.sizes))
        self.edges = nn.Linear(size, 4 * size)
        pairs = [(_index(kind, KINDS), _index(colour, COLOURS)) for colour, kind in HELD_OUT]
        held_out = torch.zeros(self.sizes[:2], dtype=torch.bool)
        held_out[tuple(zip(*pairs, strict=True))] = True
        self.register_buffer("held_out", held_out, persistent=False)

    def loss(self, features, numbers, labels, cells):
        """Mean loss of vectors [N, size] against `cell_labels`, [N, 7] and [N, 2].

        A kind is not compared with the one that is kept out with the cell's colour, nor a colour
        with the one that is kept out with its kind.
        numbers [M, size]: the language model's vectors of the even numbers 0, 2, 4, ...
        """
        *named, cell = self.read(features).split(self.sizes, dim=-1)
        kinds, colours = labels[:, :2].clamp(min=NOTHING).T
        named[0] = named[0].masked_fill(self.held_out[:, colours].T, -torch.inf)
        named[1] = named[1].masked_fill(self.held_out[kinds], -torch.inf)
        loss = 4 * F.smooth_l1_loss(cell, cells, beta=0.1)
        for index, scores in enumerate(named):
            loss = loss + F.cross_entropy(scores, labels[:, index], ignore_index=UNNAMED)
        shapes = (labels[:, :2] != NOTHING).any(-1)
        if shapes.any():
            edges = self.edges(features[shapes]).view(-1, features.shape[-1]) @ numbers.T
            loss = loss + 0.5 * F.cross_entropy(edges, labels[shapes, 3:].flatten())
        return loss
