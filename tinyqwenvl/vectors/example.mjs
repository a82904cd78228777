// A program that answers three families of the unit vectors, in JavaScript without packages:
//
//     python -m tinyqwenvl.oracle harness -- node example.mjs
//
// It reads one question per line from stdin, {"id", "family", "input"}, and writes one answer per
// line to stdout: {"id", "output"}, {"id", "error"} if the input must be refused, {"id", "skip"} for
// unsupported families. Replace the functions by calls of your own code.

import { createInterface } from "node:readline";

// ---------------------------------------------------------------- smart_resize

// Ties go to the even number, as in Python: 2.5 -> 2, 3.5 -> 4. (Math.round gives 3 and 4.)
function roundHalfToEven(x) {
  const below = Math.floor(x);
  const part = x - below;
  if (part !== 0.5) return part < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

// The size to which an image is resized: about its own, with sides that are multiples of factor.
function smartResize({ height, width, factor, min_pixels, max_pixels }) {
  if (Math.min(height, width) < 1) throw new Error("an image without pixels");
  if (Math.max(height, width) / Math.min(height, width) > 200) throw new Error("ratio over 200");
  if (min_pixels > max_pixels) throw new Error("the limits allow no size");
  let h = roundHalfToEven(height / factor) * factor;
  let w = roundHalfToEven(width / factor) * factor;
  if (h * w > max_pixels) {
    const scale = Math.sqrt((height * width) / max_pixels); // from the original size
    h = Math.max(factor, Math.floor(height / scale / factor) * factor);
    w = Math.max(factor, Math.floor(width / scale / factor) * factor);
  } else if (h * w < min_pixels) {
    const scale = Math.sqrt(min_pixels / (height * width));
    h = Math.ceil((height * scale) / factor) * factor;
    w = Math.ceil((width * scale) / factor) * factor;
  }
  return { height: h, width: w };
}

// ---------------------------------------------------------------- window_index

// Tokens (groups of merge x merge patches) window by window; windows at the edges are smaller.
function windowIndex({ grid_thw, patch_size, spatial_merge_size, window_size }) {
  const side = Math.floor(window_size / spatial_merge_size / patch_size); // in tokens: 4
  const order = [];
  let offset = 0; // of this image's first token
  for (const [frames, rows, columns] of grid_thw) {
    const h = rows / spatial_merge_size;
    const w = columns / spatial_merge_size;
    for (let t = 0; t < frames; t++)
      for (let top = 0; top < h; top += side)
        for (let left = 0; left < w; left += side)
          for (let y = top; y < Math.min(top + side, h); y++)
            for (let x = left; x < Math.min(left + side, w); x++)
              order.push(offset + (t * h + y) * w + x);
    offset += frames * h * w;
  }
  const back = new Array(order.length);
  order.forEach((from, to) => (back[from] = to));
  return { window_index: order, reverse_index: back };
}

// ---------------------------------------------------------------- mrope_positions

// [time, height, width] of every token, in order, counted from start.
function block([frames, rows, columns], start, seconds, perSecond, merge) {
  const found = [];
  for (let t = 0; t < frames; t++) {
    // Each product is rounded to float32; the result is truncated to an integer once, at the end.
    const time = Math.trunc(Math.fround(Math.fround(t * Math.fround(seconds)) * perSecond));
    for (let y = 0; y < rows / merge; y++)
      for (let x = 0; x < columns / merge; x++) found.push([start + time, start + y, start + x]);
  }
  return found;
}

function mropePositions(given) {
  const ids = given.input_ids.filter((_, i) => given.attention_mask[i]); // without padding
  const images = [...given.image_grid_thw];
  const videos = given.video_grid_thw.map((grid, i) => [grid, given.second_per_grid_ts?.[i] ?? 1]);
  const newer = given.model_type === "qwen2_5_vl"; // Qwen2-VL has no seconds
  const positions = [];
  let next = 0; // position of the next text token
  while (positions.length < ids.length) {
    const id = ids[positions.length];
    if (id !== given.image_token_id && id !== given.video_token_id) {
      positions.push([next, next, next]);
      next += 1;
      continue;
    }
    const video = id === given.video_token_id;
    const [grid, seconds] = (video ? videos.shift() : [images.shift(), 1]) ?? [];
    if (!grid) throw new Error("more placeholders than images");
    const pace = newer ? [seconds, given.tokens_per_second] : [1, 1];
    const found = block(grid, next, ...pace, given.spatial_merge_size);
    const run = ids.slice(positions.length, positions.length + found.length);
    if (run.length < found.length || run.some((other) => other !== id))
      throw new Error("an image has more tokens than placeholders");
    positions.push(...found);
    next = 1 + found.flat().reduce((a, b) => Math.max(a, b)); // past the largest of all three axes
  }
  if (images.length || videos.length) throw new Error("more images than placeholders");
  const delta = next - ids.length;
  let i = 0; // padding stays 0 on all axes
  const whole = given.attention_mask.map((real) => (real ? positions[i++] : [0, 0, 0]));
  const position_ids = [0, 1, 2].map((axis) => whole.map((position) => position[axis]));
  return { position_ids, rope_delta: delta };
}

// ---------------------------------------------------------------- questions and answers

const families = {
  smart_resize: smartResize,
  window_index: windowIndex,
  mrope_positions: mropePositions,
};

function answer({ id, family, input }) {
  if (!families[family]) return { id, skip: true };
  try {
    return { id, output: families[family](input) };
  } catch (error) {
    return { id, error: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin }))
  if (line.trim()) console.log(JSON.stringify(answer(JSON.parse(line))));
