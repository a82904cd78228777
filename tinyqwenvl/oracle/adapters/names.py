"""Names of our stages in llama.cpp, ONNX (TorchScript export, GenAI builder) and wrappers."""

from __future__ import annotations

import re
from collections.abc import Iterable

# ------------------------------------------------------------------ llama.cpp

# Names that occur in only one of its two graphs: NAME-LAYER, or NAME.
_VISION = {
    "ln1": "visual.blocks.{}.norm1", "layer_inp_normed": "visual.blocks.{}.norm1",
    "ffn_inp_normed": "visual.blocks.{}.norm2", "layer_out": "visual.blocks.{}",
}  # fmt: skip
_TEXT = {
    "attn_norm": "model.layers.{}.input_layernorm",
    "ffn_norm": "model.layers.{}.post_attention_layernorm", "l_out": "model.layers.{}",
    "result_norm": "model.norm", "result_output": "lm_head", "inp_embd": "model.inputs_embeds",
}  # fmt: skip
# Names that both graphs use: only the prefix "v." or "t." distinguishes them.
_BOTH = {
    "Qcur_rope": "q", "Kcur_rope": "k", "kqv_out": "context", "attn_out": "", "ffn_gate": "gate",
    "ffn_up": "up", "ffn_out": "mlp",
}  # fmt: skip


def llama_cpp(name: str) -> str | None:
    """The stage of a tensor of llama.cpp's ``cb_eval`` callback, or None.

    ``v.`` before the name: from the callback of mtmd (vision), ``t.``: from that of the text model.
    Names that one graph alone uses need no such prefix.
    """
    part, plain = (name[0], name[2:]) if name[:2] in ("v.", "t.") else ("", name)
    match = re.fullmatch(r"(\w+)-(\d+)", plain)
    stem, number = (match[1], match[2]) if match else (plain, "")
    if stem in _BOTH and number:
        return _in_both(part, _BOTH[stem], number) if part else None
    if part == "v" and stem == "Vcur" and number:
        return f"visual.blocks.{number}.attn.v"
    if part != "t" and number and stem in _VISION:
        return _VISION[stem].format(number)
    if part != "v" and stem in _TEXT and bool(number) == ("{}" in _TEXT[stem]):
        return _TEXT[stem].format(number)
    return None


def _in_both(part: str, what: str, number: str) -> str:
    layer = f"visual.blocks.{number}" if part == "v" else f"model.layers.{number}"
    attention = f"{layer}.attn" if part == "v" else f"{layer}.self_attn"
    if what in ("gate", "up"):
        return f"{layer}.mlp.{what}_proj"
    if what == "mlp":
        return f"{layer}.mlp"
    return f"{attention}.{what}" if what else attention


# ------------------------------------------------------------------ ONNX

_OUTPUT = re.compile(r"[A-Z]\w*?(_\d+)?_output_\d+")  # Add_output_0, MatMul_1_output_0
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def onnx(name: str) -> str | None:
    """The module of a tensor of an ONNX graph (``/visual/blocks.0/attn/qkv/Add_output_0``), or
    None when the name is not one.

    A list of modules appears twice in such names (``/mlp/mlp.0/``). In the graphs of ONNX Runtime
    GenAI's builder, ``output_0`` is a part of its own.
    """
    if present := re.fullmatch(r"present(?:_key_values)?\.(\d+)\.(key|value)", name):
        return f"model.layers.{present[1]}.self_attn.{present[2][0]}"
    if not name.startswith("/"):
        return None
    parts = [part for part in name.split("/") if part]
    if len(parts) > 1 and parts[-1] in ("output_0", "output_3"):
        return _genai(parts[:-1], parts[-1])
    if len(parts) > 1 and _OUTPUT.fullmatch(parts[-1]):
        parts.pop()
    return ".".join(_without_lists(parts))


def _without_lists(parts: list[str]) -> list[str]:
    """``mlp``, ``mlp.0`` -> ``mlp.0``."""
    found: list[str] = []
    for part in parts:
        if found and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return found


def _genai(parts: list[str], output: str) -> str:
    """Names of ONNX Runtime GenAI's model builder."""
    if re.fullmatch(r"[A-Z]\w*", parts[-1]) and len(parts) > 1:  # the operator
        parts = parts[:-1]
    name = ".".join(_without_lists(parts)).replace(".attn.", ".self_attn.")
    layer = _LAYER.match(name)
    if output == "output_3":  # of a norm that adds first: the sum
        if layer and name.endswith(".input_layernorm") and int(layer[1]):
            return f"model.layers.{int(layer[1]) - 1}"
        if name.endswith(".final_norm_layernorm") and layer:
            return f"model.layers.{int(layer[1]) - 1}"
        return f"{name}.sum"
    if name.endswith(".final_norm_layernorm"):
        return "model.norm"
    if name.endswith(".attn"):
        return f"{name.removesuffix('.attn')}.self_attn.context"
    return re.sub(r"\.self_attn\.(q|k)_rotary$", r".self_attn.\1", name)


def scope_of(node: str) -> str | None:
    """The module in which a node of an export of PyTorch was made, or None."""
    parts = [part for part in node.split("/") if part]
    if not node.startswith("/") or len(parts) < 2 or not _OUTPUT.fullmatch(parts[-1]):
        return None
    return ".".join(_without_lists(parts[:-1]))


def outputs_of_modules(nodes: Iterable[str]) -> dict[str, str]:
    """Module -> its output tensor: the last one made in it, submodules included.

    ``nodes``: names of tensors in the order of the graph.
    """
    found: dict[str, str] = {}
    for node in nodes:
        parts = [part for part in node.split("/") if part]
        if scope_of(node) is not None:
            for end in range(1, len(parts)):
                found[".".join(_without_lists(parts[:end]))] = node
    return found


def torch_node(name: str) -> str | None:
    """A node's name in OpenVINO as ONNX has it (``/visual/blocks.0/Add``), or None: in no module.

    ``__module.visual.blocks.0.attn.qkv/aten::linear/Add`` is how its front end for PyTorch calls
    them, where a number or another suffix may follow.
    """
    if name.startswith("/"):
        return name
    scope, _, operator = name.partition("/")
    if not scope.startswith("__module.") or not operator:
        return None
    parts = re.sub(r"\.(?=\D)", "/", scope.removeprefix("__module."))
    kind = re.sub(r"\W", "", operator.rpartition("/")[2]).capitalize()
    return f"/{parts}/{kind}"


# ------------------------------------------------------------------ wrappers

_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_origin_model|_orig_mod|_fsdp_wrapped_module)(?:\.|$)")


def without_wrappers(name: str) -> str:
    """A module's name without the parts that wrappers add: ``_origin_model.``, ``_orig_mod.``,
    ``module.`` at the beginning, ``base_model.model.``.
    """
    plain = _WRAPPERS.sub("", name.removeprefix("module.").removeprefix("base_model.model."))
    return plain.rstrip(".") or name
