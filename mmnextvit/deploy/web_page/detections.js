// What the network gives, as detections: {boxes, scores, labels}, arrays by falling score.
// It follows `suppress` of mmnextvit's runtime, in single precision as that does.

const { fround } = Math;

/** The detections in one image, in pixels of the network's input. */
export function readOutputs(outputs, metadata) {
  const found = metadata.nms.in_graph
    ? takeFirst(outputs)
    : suppress(outputs.boxes.data, outputs.scores.data, metadata);
  if (![...found.scores, ...found.boxes].every(Number.isFinite)) {
    throw new Error('The network gives values that are no numbers, as with broken weights');
  }
  return found;
}

/** Of files with non-maximum suppression inside: what is no padding. */
function takeFirst({ num_detections, boxes, scores, labels }) {
  // Where a candidate is NaN all scores are, and nothing is counted.
  const count = Number.isNaN(scores.data[0]) ? 1 : Number(num_detections.data[0]);
  return {
    boxes: boxes.data.slice(0, 4 * count),
    scores: scores.data.slice(0, count),
    labels: labels.data.slice(0, count),
  };
}

/** Non-maximum suppression, class by class. */
function suppress(boxes, scores, { classes, nms }) {
  if (!scores.every(Number.isFinite)) return { boxes, scores, labels: [] };
  const pairs = listPairs(scores, classes.length, nms);
  pairs.sort((a, b) => scores[b] - scores[a]); // of equal ones the first comes first

  const kept = [];
  const rivals = classes.map(() => []); // what is kept, by class
  for (const pair of pairs.slice(0, nms.nms_pre ?? pairs.length)) {
    if (kept.length === nms.max_per_img) break;
    const label = pair % classes.length;
    const start = 4 * Math.floor(pair / classes.length);
    const box = boxes.subarray(start, start + 4);
    if (rivals[label].some((better) => overlap(better, box, nms.iou_threshold))) continue;
    rivals[label].push(box);
    kept.push({ box, label, score: scores[pair] });
  }
  return {
    boxes: Float32Array.from(kept.flatMap(({ box }) => [...box])),
    scores: Float32Array.from(kept, ({ score }) => score),
    labels: Int32Array.from(kept, ({ label }) => label),
  };
}

/** The indices of the scores that count, each of a candidate and a class. */
function listPairs(scores, count, nms) {
  const lowest = fround(nms.score_thr);
  const pairs = [];
  if (nms.multi_label) {
    scores.forEach((score, pair) => score > lowest && pairs.push(pair));
    return pairs;
  }
  for (let row = 0; row < scores.length; row += count) {
    let best = row;
    for (let i = row; i < row + count; i++) if (scores[i] > scores[best]) best = i;
    if (scores[best] > lowest) pairs.push(best);
  }
  return pairs;
}

/** Whether two boxes have more of their union in common than a threshold. */
function overlap([x1, y1, x2, y2], [u1, v1, u2, v2], threshold) {
  const width = Math.max(fround(Math.min(x2, u2) - Math.max(x1, u1)), 0);
  const height = Math.max(fround(Math.min(y2, v2) - Math.max(y1, v1)), 0);
  const common = fround(width * height);
  const first = fround(fround(x2 - x1) * fround(y2 - y1));
  const second = fround(fround(u2 - u1) * fround(v2 - v1));
  const union = fround(fround(first + second) - common);
  return common > fround(fround(threshold) * union);
}

/**
 * The objects that are shown, as `mmnextvit predict` writes them.
 *
 * @param found Detections, in pixels of the image.
 * @param {string[]} classes Names of the labels.
 * @param {(label: number) => number} findMinimum The minimum score of a label.
 * @param {Set<number>} shown Labels.
 */
export function listObjects(found, classes, findMinimum, shown) {
  const objects = [];
  found.labels.forEach((label, i) => {
    if (!shown.has(label) || found.scores[i] < fround(findMinimum(label))) return;
    objects.push({
      class: classes[label],
      score: shorten(found.scores[i], 4),
      box: [...found.boxes.subarray(4 * i, 4 * i + 4)].map((x) => shorten(x, 2)),
      label,
    });
  });
  return objects;
}

const shorten = (value, digits) => Number(value.toFixed(digits));
