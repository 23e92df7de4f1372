// From an image to the network's input and back, by the `resize` of the file's metadata.
// It gives what `lay_out` of mmnextvit's runtime does. Sizes are [height, width].

import { resize, round } from './resize.js';

/** The two sides of a size, changed by a function of a side and its number. */
const each = (size, change) => [0, 1].map((side) => change(size[side], side));

// Each gives the image's new size, how it is resized, and the canvas around it.
const STEPS = {
  keep_ratio(size, step) {
    const ratio = Math.min(
      Math.max(...step.scale) / Math.max(...size),
      Math.min(...step.scale) / Math.min(...size),
    );
    const resized = each(size, (side) => Math.max(Math.trunc(side * ratio), 1));
    return [resized, ratio < 1 ? 'area' : 'linear', resized];
  },
  letterbox(size, step) {
    const fits = Math.min(...each(size, (side, i) => step.size[i] / side));
    const ratio = step.scale_up ? fits : Math.min(fits, 1);
    const resized = each(size, (side) => Math.max(round(side * ratio), 1));
    const stride = step.stride ?? 32;
    const canvas = each(resized, (side, i) =>
      step.mini_pad ? side + ((step.size[i] - side) % stride) : step.size[i],
    );
    return [resized, 'linear', canvas];
  },
};

/** Where an image of a size lies in the network's input. */
export function layOut(image, steps) {
  let size = image;
  let canvas = image;
  let factor = [1, 1];
  const resizes = [];
  for (const step of steps) {
    const [resized, how, around] = STEPS[step.type](size, step);
    if (resized[0] !== size[0] || resized[1] !== size[1]) resizes.push([resized, how]);
    factor = each(factor, (f, i) => f * (resized[i] / size[i]));
    [size, canvas] = [resized, around];
  }
  const pad = each(canvas, (whole, i) => Math.floor((whole - size[i]) / 2));
  const last = steps.at(-1);
  let origin = pad;
  if (last.exact) {
    const gain = Math.min(...each(canvas, (whole, i) => whole / image[i]));
    factor = [gain, gain];
    origin = each(canvas, (whole, i) => (whole - image[i] * gain) / 2);
  } else if (last.half_pad) {
    origin = each(canvas, (whole, i) => (whole - size[i]) / 2);
  }
  return { image, resizes, canvas, pad, factor, origin, fill: last.fill ?? 0 };
}

/** The network's input of one image: RGB planes of the canvas, 0 to 255. */
export function makeInput(image, layout) {
  for (const [size, how] of layout.resizes) image = resize(image, size, how);
  const [height, width] = layout.canvas;
  const [top, left] = layout.pad;
  const input = new Float32Array(3 * height * width).fill(layout.fill);
  let from = 0;
  for (let y = 0; y < image.height; y++) {
    let to = (top + y) * width + left;
    for (let x = 0; x < image.width; x++, from += 4, to++) {
      for (let c = 0; c < 3; c++) input[c * height * width + to] = image.data[from + c];
    }
  }
  return input;
}

/** Boxes (x1, y1, x2, y2, ...) of the network's input in the image's pixels. */
export function toImage(boxes, layout) {
  const { image, origin, factor } = layout;
  return boxes.map((value, i) => {
    const side = i % 2 ? 0 : 1; // y, or x
    const place = Math.fround(value - Math.fround(origin[side]));
    const own = Math.fround(place / Math.fround(factor[side]));
    return Math.min(Math.max(own, 0), image[side]);
  });
}
