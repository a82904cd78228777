"""tinyqwenvl: Qwen2-VL and Qwen2.5-VL from scratch in NumPy.

>>> import tinyqwenvl
>>> model = tinyqwenvl.load()                  # the small checkpoint inside the package
>>> model.ask("scene.png", "describe")         # doctest: +SKIP
"""

from .deprecated import old_modules
from .errors import UserError
from .model import Inputs, Model, load
from .tracing import trace
from .weights import Weights, flatten, nest

__version__ = "0.2.0"
__all__ = ["Inputs", "Model", "UserError", "Weights", "flatten", "load", "nest", "trace"]

old_modules()
