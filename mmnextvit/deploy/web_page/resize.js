// Resizes images as OpenCV's `cv2.resize` does with images of 8 bits, rounding included:
// what a browser's canvas makes of them is another picture, and so the boxes would differ.
//
// An image is {width, height, data}: RGBA of 8 bits, row by row. Alpha is left alone.

const CHANNELS = 3; // of four, which are resized
const ONE = 1 << 11; // a weight of 1, as OpenCV counts in whole numbers
const EPSILON = 2 ** -52;

/** The nearest whole number; halves go to the even one, as in Python and OpenCV. */
export function round(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/**
 * An image in another size.
 *
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image
 * @param {[number, number]} size Height and width.
 * @param {'area' | 'linear'} how Mean of what a pixel covers, which is for smaller images,
 *     or between four neighbours.
 */
export function resize(image, [height, width], how) {
  const down = 1 / (height / image.height); // as OpenCV computes it
  const across = 1 / (width / image.width);
  const whole = [down, across].every((scale) => Math.abs(scale - round(scale)) < EPSILON);
  const result = { width, height, data: new Uint8ClampedArray(4 * width * height) };
  if (whole && (how === 'area' || (down === 2 && across === 2))) {
    averageBlocks(image, result, round(down), round(across));
  } else if (how === 'area') {
    averageAreas(image, result, down, across);
  } else {
    interpolate(image, result, down, across);
  }
  return result;
}

/** Each pixel becomes the mean of a block of so many rows and columns. */
function averageBlocks(image, result, rows, columns) {
  const { data } = image;
  const share = Math.fround(1 / (rows * columns));
  const four = rows === 2 && columns === 2; // there halves go up
  let at = 0;
  for (let y = 0; y < result.height; y++) {
    for (let x = 0; x < result.width; x++, at += 4) {
      for (let c = 0; c < CHANNELS; c++) {
        let sum = 0;
        for (let row = 0; row < rows; row++) {
          let from = 4 * ((y * rows + row) * image.width + x * columns) + c;
          for (let column = 0; column < columns; column++, from += 4) sum += data[from];
        }
        result.data[at + c] = four ? (sum + 2) >> 2 : round(Math.fround(sum * share));
      }
    }
  }
}

/** Each pixel becomes the mean of what it covers, where parts of pixels count in part. */
function averageAreas(image, result, down, across) {
  const columns = listShares(image.width, result.width, across);
  const rows = listShares(image.height, result.height, down);
  const line = new Float32Array(4 * result.width);
  const sums = new Float32Array(4 * result.width);
  rows.forEach((shares, y) => {
    sums.fill(0);
    for (const [row, share] of shares) {
      line.fill(0);
      const start = 4 * row * image.width;
      columns.forEach((parts, x) => {
        for (const [column, part] of parts) {
          const from = start + 4 * column;
          for (let c = 0; c < CHANNELS; c++) {
            line[4 * x + c] += Math.fround(image.data[from + c] * part);
          }
        }
      });
      for (let i = 0; i < sums.length; i++) sums[i] += Math.fround(line[i] * share);
    }
    const start = 4 * y * result.width;
    for (let i = 0; i < sums.length; i++) result.data[start + i] = round(sums[i]);
  });
}

/** For each pixel in a row or column: which it covers, [index, share]. */
function listShares(length, size, scale) {
  return Array.from({ length: size }, (_, i) => {
    const begin = i * scale;
    const end = begin + scale;
    const covered = Math.min(scale, length - begin);
    const last = Math.min(Math.floor(end), length - 1);
    const first = Math.min(Math.ceil(begin), last);
    const shares = [];
    if (first - begin > 1e-3) shares.push([first - 1, (first - begin) / covered]);
    for (let k = first; k < last; k++) shares.push([k, 1 / covered]);
    if (end - last > 1e-3) {
      shares.push([last, Math.min(end - last, 1, covered) / covered]);
    }
    return shares.map(([index, share]) => [index, Math.fround(share)]);
  });
}

/** Each pixel becomes what lies between its four neighbours. */
function interpolate(image, result, down, across) {
  const rows = listNeighbours(result.height, down);
  const columns = listNeighbours(result.width, across).map(([at, first, second]) => {
    if (at < 0) return [0, ONE, 0];
    return at >= image.width - 1 ? [image.width - 1, ONE, 0] : [at, first, second];
  });
  const known = new Map(); // the two last rows, resized across
  const blend = (row) => {
    if (!known.has(row)) {
      if (known.size > 1) known.delete(Math.min(...known.keys()));
      known.set(row, blendRow(image, row, columns));
    }
    return known.get(row);
  };
  const last = image.height - 1;
  rows.forEach(([at, first, second], y) => {
    const above = blend(Math.min(Math.max(at, 0), last));
    const below = blend(Math.min(Math.max(at + 1, 0), last));
    const start = 4 * y * result.width;
    for (let i = 0; i < above.length; i++) {
      const sum = ((first * (above[i] >> 4)) >> 16) + ((second * (below[i] >> 4)) >> 16);
      result.data[start + i] = (sum + 2) >> 2;
    }
  });
}

/** A row of an image with other columns, times ONE. */
function blendRow(image, row, columns) {
  const line = new Int32Array(4 * columns.length);
  const start = 4 * row * image.width;
  columns.forEach(([at, first, second], x) => {
    const from = start + 4 * at;
    const next = second ? from + 4 : from; // at the edge there is no other
    for (let c = 0; c < CHANNELS; c++) {
      line[4 * x + c] = image.data[from + c] * first + image.data[next + c] * second;
    }
  });
  return line;
}

/** For each pixel in a row or column: [index before it, its weight, that of the next]. */
function listNeighbours(size, scale) {
  return Array.from({ length: size }, (_, i) => {
    const place = Math.fround((i + 0.5) * scale - 0.5);
    const at = Math.floor(place);
    const part = Math.fround(place - at);
    return [at, round(Math.fround(1 - part) * ONE), round(part * ONE)];
  });
}
