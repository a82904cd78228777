"""The shape walk of a prompt, without weights: shape, parameters, FLOPs, bytes of every stage."""

from .walk import Row, Walk, walk

__all__ = ["Row", "Walk", "walk"]
