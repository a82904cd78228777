"""What qwen_vl_utils says of sizes and frames, and stubs for what it imports without need."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from .common import sampled


class _Stub(ModuleType):
    """A package that a witness imports and, here, never uses."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__path__: list[str] = []
        self.__version__ = "0.21.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Anything:
    """A class of such a package."""

    NEAREST = NEAREST_EXACT = BOX = BILINEAR = HAMMING = BICUBIC = LANCZOS = None


def stub(*names: str) -> None:
    """Put stubs where these modules are not installed (after transformers has looked for them)."""
    for name in names:
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = made = _Stub(name)
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], last, made)


def qvu_resize(**given: Any) -> dict[str, int]:
    """``smart_resize`` of qwen_vl_utils."""
    from qwen_vl_utils import vision_process

    return dict(zip(("height", "width"), vision_process.smart_resize(**given), strict=True))


def qvu_frames(
    total_frames: int, video_fps: float, fps: float, min_frames: int, max_frames: int, **_: Any
) -> dict[str, Any]:
    """What ``_read_video_torchvision`` takes of a clip that is not there."""
    from qwen_vl_utils import vision_process

    clip = torch.arange(total_frames)
    read = SimpleNamespace(read_video=lambda *_, **__: (clip, None, {"video_fps": video_fps}))
    vision_process.io = read
    asked = {"video": "", "fps": fps, "min_frames": min_frames, "max_frames": max_frames}
    frames, _, rate = vision_process._read_video_torchvision(asked)
    return sampled(frames.tolist(), 1 / rate)
