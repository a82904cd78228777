"""Cases of vision_positions: row and column of every patch, in merge order."""

from __future__ import annotations

from .registry import Grids, case


def rows_and_columns(name: str, pins: str, flags: str, grids: Grids, merge: int = 2) -> None:
    """A case of vision_positions."""
    case("vision_positions", name, pins, flags, grid_thw=grids, spatial_merge_size=merge)


rows_and_columns("2x2", "One block: (0,0) (0,1) (1,0) (1,1).", "small", [[1, 2, 2]])
rows_and_columns("4x4", "The four patches of a block are neighbours.", "", [[1, 4, 4]])
rows_and_columns("wide", "Row first, then column.", "non-square", [[1, 4, 10]])
rows_and_columns("tall", "Row first, then column.", "non-square", [[1, 10, 4]])
rows_and_columns("one-row-of-blocks", "Columns run over the whole width.", "", [[1, 2, 12]])
rows_and_columns("one-column-of-blocks", "Rows run over the whole height.", "", [[1, 12, 2]])
rows_and_columns("clip", "Every frame begins at (0, 0); time does not count.", "video", [[3, 4, 6]])
rows_and_columns(
    "two-pictures", "Every picture begins at (0, 0).", "pictures", [[1, 4, 6], [1, 6, 2]]
)
rows_and_columns(
    "picture-and-clip", "A still and a clip.", "pictures video", [[1, 6, 4], [2, 2, 8]]
)
rows_and_columns("ragged-windows", "Merge order, not window order.", "ragged", [[1, 10, 18]])
rows_and_columns("blocks-of-3", "Blocks of spatial_merge_size patches a side.", "", [[1, 6, 9]], 3)
rows_and_columns("blocks-of-1", "Blocks of one patch: row by row.", "", [[1, 3, 4]], 1)
