"""The geometry of a prompt without weights: every stage's shape, parameters, FLOPs and bytes."""

from .walk import Row, Walk, walk

__all__ = ["Row", "Walk", "walk"]
