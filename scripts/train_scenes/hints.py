"""Extra supervision of the vision encoder in training: what does each image token cover?

A linear head, not part of the checkpoint, reads from every vision vector the kind and colour of the
shape in its cell, the shape's box, the character in its cell, and which cell it is.  Answers alone
teach this too, but need many more images to begin.  Boxes are read with the language model's own
vectors of numbers, so that what is learnt here can be copied into an answer.
"""

import string

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scripts.train_scenes.scene import CELL, COLOURS, HELD_OUT, KINDS

CHARACTERS = string.ascii_letters + string.digits
NOTHING = 0
UNNAMED = -100  # without a name, or in doubt: the head is not asked for it
LARGEST = 800  # of the even numbers that boxes are read with
_KINDS, _COLOURS = ({name: i + 1 for i, name in enumerate(names)} for names in (KINDS, COLOURS))


def cell_labels(scene):
    """Integers [cells, 7] and floats [cells, 2] of one scene or refusal, cells row by row.

    The integers: kind, colour and character (0 for none), then the edges of the shape's box
    divided by two.  The floats: the cell's own relative row and column.
    """
    rows, columns = scene.height // CELL, scene.width // CELL
    labels = np.full((rows, columns, 7), NOTHING, dtype=np.int16)
    labels[..., 3:] = UNNAMED
    best = np.full((rows, columns), 0.12)  # the least share of a cell that counts
    for shape in sorted(getattr(scene, "shapes", ()), key=_area, reverse=True):
        kind = _KINDS.get(shape.kind, UNNAMED)
        colour = _COLOURS.get(shape.colour, UNNAMED)
        mine, found = _covered(shape.box, rows, columns, best)
        best[found] = mine * 0.7  # a smaller shape that lies on a larger one takes the cell
        labels[found] = (kind, colour, NOTHING, *(edge // 2 for edge in shape.box))
    best[:] = 0.06
    for word in getattr(scene, "words", ()):
        x1, y1, x2, y2 = word.box
        step = (x2 - x1) / max(1, len(word.text))
        for index, character in enumerate(word.text):
            box = (x1 + index * step, y1, x1 + (index + 1) * step, y2)
            mine, found = _covered(box, rows, columns, best)
            best[found] = mine
            number = CHARACTERS.find(character) + 1 if step >= CELL / 2 else 0
            labels[..., 2][found] = number or UNNAMED
    row, column = np.mgrid[:rows, :columns]
    cells = np.stack([(row + 0.5) / rows, (column + 0.5) / columns], -1)
    return labels.reshape(-1, 7), cells.reshape(-1, 2).astype(np.float32)


def _area(shape):
    x1, y1, x2, y2 = shape.box
    return (x2 - x1) * (y2 - y1)


def _covered(box, rows, columns, best):
    """Shares of the cells that a box covers more of than `best`; the mask of these cells."""
    x1, y1, x2, y2 = (edge / CELL for edge in box)
    column, row = np.arange(columns), np.arange(rows)
    width = (np.minimum(x2, column + 1) - np.maximum(x1, column)).clip(0)
    height = (np.minimum(y2, row + 1) - np.maximum(y1, row)).clip(0)
    share = height[:, None] * width
    found = share > best
    return share[found], found


class HintHead(nn.Module):
    """Vision vectors -> kind, colour, character, box and cell."""

    def __init__(self, size):
        super().__init__()
        self.sizes = (len(KINDS) + 1, len(COLOURS) + 1, len(CHARACTERS) + 1, 2)
        self.read = nn.Linear(size, sum(self.sizes))
        self.edges = nn.Linear(size, 4 * size)
        held_out = torch.zeros(self.sizes[:2], dtype=torch.bool)
        for colour, kind in HELD_OUT:
            held_out[_KINDS[kind], _COLOURS[colour]] = True
        self.register_buffer("held_out", held_out, persistent=False)

    def loss(self, features, numbers, labels, cells, boxed):
        """Mean loss of vectors [N, size] against `cell_labels`, [N, 7] and [N, 2].

        A kind is not compared with the one that is held out with the cell's colour, nor a colour
        with the one that is held out with its kind.
        numbers [M, size]: the language model's vectors of the even numbers 0, 2, 4, ...;
        boxed: indices of the cells that have a box.
        """
        *named, cell = self.read(features).float().split(self.sizes, dim=-1)
        kinds, colours = labels[:, :2].clamp(min=NOTHING).T
        named[0] = named[0].masked_fill(self.held_out[:, colours].T, -torch.inf)
        named[1] = named[1].masked_fill(self.held_out[kinds], -torch.inf)
        loss = 4 * F.smooth_l1_loss(cell, cells, beta=0.1)
        for index, scores in enumerate(named):
            known = (labels[:, index] >= 0).sum().clamp(min=1)
            total = F.cross_entropy(scores, labels[:, index], ignore_index=UNNAMED, reduction="sum")
            loss = loss + total / known
        edges = self.edges(features[boxed]).view(-1, features.shape[-1]) @ numbers.T
        total = F.cross_entropy(edges.float(), labels[boxed, 3:].flatten(), reduction="sum")
        return loss + 0.5 * total / max(1, 4 * len(boxed))
