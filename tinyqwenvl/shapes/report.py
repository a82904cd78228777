"""Format a shape walk as text or JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..config import Config
from ..presets import KNOWN_FROM, PRESETS, preset
from .walk import Row, Walk, walk

FLOPS_ARE = (
    "one multiply-add is 2; matrix products and attention only, attention over the pairs of "
    "query and key that the attention mask allows"
)
_BLOCK = re.compile(r"(visual\.blocks|model\.layers)\.(\d+)\b(.*)")


def short(number: float) -> str:
    """1234567 -> "1.23 M", in steps of a thousand."""
    for letter in ("", "k", "M", "G", "T", "P"):
        if number < 999.5 or letter == "P":
            break
        number /= 1000
    return f"{number:.3g} {letter}".rstrip() if number < 999.5 else f"{number:,.0f} {letter}"


def as_json(name: str, found: Walk) -> dict[str, Any]:
    """The whole walk as JSON: shapes, parameters, FLOPs, bytes."""
    stages = [
        {"name": r.name, "shape": list(r.shape), "dtype": r.dtype, "parameters": r.parameters,
         "flops": r.flops}
        for r in found.rows
    ]  # fmt: skip
    total, cache = found.parameters["total"], found.cache
    return {
        "model": name,
        "second_hand": KNOWN_FROM.get(name),
        "pictures": found.images,
        "tokens": found.tokens,
        "stages": stages,
        "parameters": found.parameters,
        "flops": {**found.flops, "are": FLOPS_ARE},
        "bytes": {
            "weights": _bytes(total),
            "kv_cache": _bytes(cache["prompt"]),
            "kv_cache_per_token": _bytes(cache["token"]),
        },
    }


def _bytes(numbers: int) -> dict[str, int]:
    """Bytes in bfloat16 (as published, and as most implementations cache) and in float32."""
    return {"bfloat16": 2 * numbers, "float32": 4 * numbers}


# ------------------------------------------------------------------ text


def as_text(name: str, found: Walk, every: bool = False) -> str:
    """A table of the stages and a summary; equal blocks are folded unless ``every``."""
    rows = [(r.name, r) for r in found.rows] if every else list(_folded(found.rows))
    first = max(len(title) for title, row in rows if row) + 2
    table = [_line(first, "stage", "shape", "parameters", "FLOPs")]
    for title, row in rows:
        if row is None:
            table.append(title)
            continue
        parameters, flops = (short(n) if n else "" for n in (row.parameters, row.flops))
        shape = str(list(row.shape))
        table.append(_line(first, title, shape, parameters, flops, _remark(row, found)))
    return "\n".join([*_heading(name, found), "", *table, "", *_summary(found)])


def _line(first: int, title: str, shape: str, parameters: str, flops: str, remark: str = "") -> str:
    return f"{title:{first}}{shape:32}{parameters:>12}{flops:>10}  {remark}".rstrip()


def _heading(name: str, found: Walk) -> Iterator[str]:
    known = f", second-hand: {KNOWN_FROM[name]}" if name in KNOWN_FROM else ""
    yield f"{name} ({found.config.model_type}{known})"
    for image in found.images:
        (width, height), (wide, high) = image["size"], image["resized"]
        grid = "x".join(map(str, image["grid_thw"]))
        yield (
            f"an image of {width}x{height} (width x height) is resized to {wide}x{high}: "
            f"grid {grid}, {image['patches']} patches, {image['tokens']} tokens"
        )
    tokens = found.tokens
    yield f"prompt: {tokens['image']} image + {tokens['text']} text = {tokens['total']} tokens"


def _remark(row: Row, found: Walk) -> str:
    """A remark that explains a shape."""
    if row.name == "image_grid_thw":
        return f"= {[p['grid_thw'] for p in found.images]}"
    if row.name == "image.nine_dimensions":
        return "t, group row, group column, row, column, channel, frame, y, x"
    if re.search(r"attn\.[qkv]$", row.name):
        heads, rows, size = row.shape
        return f"heads first; [{rows}, {heads}, {size}] as split"
    if row.name.endswith(".key_ranges"):
        return "attention mask: first and end key of each query"
    if row.name == "lm_head" and not row.parameters:
        return "tied to model.embed_tokens"
    return ""


def _folded(rows: Sequence[Row]) -> Iterator[tuple[str, Row | None]]:
    """(title, row) with the blocks of a stack folded, then what differs in other blocks."""
    blocks: dict[str, dict[int, list[tuple[str, Row]]]] = {}
    for row in rows:
        if match := _BLOCK.fullmatch(row.name):
            stack, number, rest = match.groups()
            blocks.setdefault(stack, {}).setdefault(int(number), []).append((rest, row))
    for row in rows:
        match = _BLOCK.fullmatch(row.name)
        if not match:
            yield row.name, row
        elif stack := blocks.pop(match.group(1), None):
            yield from _stack(match.group(1), stack)


def _stack(name: str, blocks: dict[int, list[tuple[str, Row]]]) -> Iterator[tuple[str, Row | None]]:
    kinds: dict[tuple, list[int]] = {}
    for number, parts in blocks.items():
        kind = tuple((title, r.shape, r.parameters, r.flops) for title, r in parts)
        kinds.setdefault(kind, []).append(number)
    first = blocks[min(blocks)]
    for numbers in kinds.values():
        parts = blocks[numbers[0]]
        count = "one block" if len(numbers) == 1 else f"{len(numbers)} blocks"
        as_above = "" if parts is first else ", as above except"
        yield f"{name}.{_ranges(numbers)}: {count}{as_above}", None
        for (title, row), (_, known) in zip(parts, first, strict=True):
            if parts is first or (row.shape, row.flops) != (known.shape, known.flops):
                yield f"  {title or 'total'}", row


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _summary(found: Walk) -> Iterator[str]:
    p, f, cache = found.parameters, found.flops, found.cache
    head = f"lm_head {short(p['lm_head'])}" if p["lm_head"] else "lm_head tied"
    parts = f"vision {short(p['vision'])}, decoder {short(p['decoder'])}, {head}"
    yield f"parameters  {p['total']:,}: {parts}"
    yield (
        f"weights     {short(2 * p['total'])}B in bfloat16, as published; "
        f"{short(4 * p['total'])}B in float32, as computed here"
    )
    yield (
        f"FLOPs       vision {short(f['vision'])}, decoder {short(f['decoder'])} for the prompt, "
        f"lm_head {short(f['lm_head'])} per token; each new token {short(f['new_token'])}"
    )
    yield f"            ({FLOPS_ARE})"
    yield (
        f"KV cache    {2 * cache['token']:,} bytes per token in bfloat16 (twice that in float32), "
        f"{short(2 * cache['prompt'])}B for this prompt"
    )


def presets_json() -> list[dict[str, Any]]:
    """The seven published sizes: the walk of a one-token prompt, without its stages."""
    rows = [as_json(name, walk(preset(name), [], 1)) for name in PRESETS]
    keep = ("model", "second_hand", "parameters", "bytes")
    return [{key: row[key] for key in keep} for row in rows]


def presets_text() -> str:
    """A table of the seven published sizes."""
    cells = "{:16}{:>16}{:>10}{:>10}{:>12}{:>9}  {}".format
    lines = [
        cells("preset", "parameters", "vision", "bfloat16", "KV/token", "hidden", "second-hand")
    ]
    for name in PRESETS:
        config: Config = preset(name)
        found = walk(config, [], 1)
        p = found.parameters
        lines.append(cells(
            name, f"{p['total']:,}", short(p["vision"]), short(2 * p["total"]) + "B",
            f"{2 * found.cache['token']:,} B", config.text.hidden_size, KNOWN_FROM[name],
        ))  # fmt: skip
    return "\n".join(
        [
            *lines,
            "",
            "KV/token: bytes of the KV cache per token in bfloat16; hidden: hidden size.",
        ]
    )
