// The page: images in, boxes drawn, a minimum score, classes to show, JSON out. What
// detects is in worker.js.

import { listObjects } from './detections.js';

const $ = (id) => document.getElementById(id);
const worker = new Worker('./worker.js', { type: 'module' });
const waiting = new Map(); // by id, who waits for an answer of the worker's
const results = []; // {file, found, size, milliseconds, figure}
const shown = new Set(); // the labels whose objects are shown
let metadata;

// ---------------------------------------------------------------------- the worker

let count = 0;

/** Detects in a file, or a frame of the camera. */
function detect(source) {
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject });
    worker.postMessage({ id: count, source }, source instanceof Blob ? [] : [source]);
  });
}

worker.onmessage = ({ data }) => {
  if (data.id) {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    return data.problem ? reject(new Error(data.problem)) : resolve(data);
  }
  if (data.loaded) $('loaded').value = data.loaded;
  if (data.problem) fail(`The detector cannot be loaded: ${data.problem}`);
  if (data.metadata) begin(data.metadata);
};
worker.onerror = () =>
  fail('The detector does not start: this browser is too old, or files are missing.');

function say(text, wrong = false) {
  $('status').textContent = text;
  $('status').classList.toggle('wrong', wrong);
}

function fail(text) {
  $('loaded').hidden = true;
  say(text, true);
}

/** Shows what can be done, once the detector is there. */
function begin(own) {
  metadata = own;
  const [height, width] = own.input.size;
  const classes = own.classes.length === 1 ? '1 class' : `${own.classes.length} classes`;
  document.title = $('name').textContent = own.config ?? 'Detector';
  $('about').textContent = `${classes}, images of ${width} × ${height}, ${own.precision}`;
  $('best').hidden = !own.best_scores;
  own.classes.forEach(addClass);
  $('camera').hidden = !navigator.mediaDevices; // as where the address is no https
  $('photo').hidden = !$('camera').hidden;
  for (const id of ['input', 'choices']) $(id).hidden = false;
  $('loaded').hidden = true;
  say('');
  showAll();
}

// --------------------------------------------------------------------------- images

/** Detects in files, one after another. */
async function take(files) {
  for (const [i, file] of [...files].entries()) {
    say(files.length > 1 ? `Image ${i + 1} of ${files.length} …` : 'Detecting …');
    const result = { file: file.webkitRelativePath || file.name, figure: makeFigure() };
    $('results').append(result.figure);
    try {
      Object.assign(result, await detect(file));
      if (!result.figure.isConnected) continue; // it was cleared meanwhile
      results.push(result);
      draw(result);
    } catch (error) {
      const caption = result.figure.querySelector('figcaption');
      caption.textContent = `${result.file}: ${error.message}`;
      caption.className = 'wrong';
    }
    $('clear').disabled = false;
    $('save').disabled = !results.length;
  }
  say('');
}

function makeFigure() {
  const figure = document.createElement('figure');
  figure.className = 'result';
  figure.append(document.createElement('figcaption'));
  return figure;
}

/** The color of a class: far from those of the classes beside it. */
const colorOf = (label) => `hsl(${(label * 137.5 + 150) % 360} 85% 62%)`;

/** The minimum score with the highest F1 of a class, or of all where it has none. */
function findBest(label) {
  const { all, classes } = metadata.best_scores;
  const name = metadata.classes[label];
  return Object.hasOwn(classes, name) ? classes[name] : all;
}

/** The objects of a result that are to be shown. */
function listShown({ found }) {
  const minimum = $('use-best').checked ? findBest : () => Number($('minimum').value);
  return listObjects(found, metadata.classes, minimum, shown);
}

/** Draws a result's picture, unless that is done, and its boxes. */
function draw(result) {
  const { figure, size, view } = result;
  const [height, width] = size;
  const picture = document.createElement('div');
  picture.className = 'picture';
  const canvas = figure.querySelector('canvas') ?? document.createElement('canvas');
  if (view) {
    Object.assign(canvas, { width: view.width, height: view.height });
    canvas.getContext('2d').drawImage(view, 0, 0);
    view.close();
    result.view = null;
  }
  const objects = listShown(result);
  picture.append(canvas, ...objects.map((object) => makeBox(object, width, height)));
  const caption = document.createElement('figcaption');
  const number = objects.length === 1 ? '1 object' : `${objects.length} objects`;
  caption.append(`${result.file}: ${number}`, describeTime(result));
  figure.replaceChildren(picture, caption);
}

function makeBox({ class: name, score, box: [x1, y1, x2, y2], label }, width, height) {
  const box = document.createElement('div');
  const text = document.createElement('span');
  box.className = 'box';
  box.classList.toggle('high', y1 < 0.08 * height); // no room for the text above it
  box.classList.toggle('right', x1 + x2 > width); // where there is more room for it
  text.textContent = `${name} ${score.toFixed(2)}`;
  box.style.setProperty('--hue', colorOf(label));
  box.style.left = `${(100 * x1) / width}%`;
  box.style.top = `${(100 * y1) / height}%`;
  box.style.width = `${(100 * (x2 - x1)) / width}%`;
  box.style.height = `${(100 * (y2 - y1)) / height}%`;
  box.append(text);
  return box;
}

function describeTime({ size: [height, width], milliseconds: { prepare, detect } }) {
  const small = document.createElement('small');
  small.textContent =
    `${width} × ${height}, ${Math.round(detect)} ms, ` +
    `and ${Math.round(prepare)} ms to read it`;
  return small;
}

$('files').onchange = takeChosen;
$('photo').querySelector('input').onchange = takeChosen;

function takeChosen({ target }) {
  take([...target.files]);
  target.value = ''; // so that the same file can be chosen again
}

document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add('dragging');
};
document.ondragleave = ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove('dragging');
};
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove('dragging');
  if (metadata) take([...event.dataTransfer.files]);
};

// --------------------------------------------------------------------------- camera

let stream = null;

$('camera').onclick = async () => {
  if (stream) return stopCamera();
  $('camera').disabled = true; // a second camera could not be stopped
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: { ideal: 'environment' } },
    });
  } catch (error) {
    return say(`The camera cannot be opened: ${error.message}`, true);
  } finally {
    $('camera').disabled = false;
  }
  say('');
  $('camera').textContent = 'Stop the camera';
  await watch(stream);
  $('camera').textContent = 'Open the camera';
};

function stopCamera() {
  stream.getTracks().forEach((track) => track.stop());
  stream = null;
}

/** Shows what is found in the camera's latest frame, until it stops; keeps the last. */
async function watch(own) {
  const video = Object.assign(document.createElement('video'), {
    srcObject: own,
    muted: true,
    playsInline: true,
  });
  const result = { file: 'camera', figure: $('live') };
  own.getTracks()[0].onended = () => stream === own && stopCamera();
  try {
    await video.play();
    while (stream === own) {
      Object.assign(result, await detect(await createImageBitmap(video)));
      draw(result);
      $('live').hidden = false;
    }
  } catch (error) {
    if (stream === own) stopCamera();
    say(`The camera stopped: ${error.message}`, true);
  }
  video.srcObject = null;
  if (!result.found) return;
  const kept = { ...result, figure: makeFigure() };
  kept.figure.replaceChildren(...$('live').childNodes);
  $('live').hidden = true;
  $('results').append(kept.figure);
  results.push(kept);
  $('save').disabled = $('clear').disabled = false;
}

// ------------------------------------------------------------------ what is shown

function showAll() {
  const best = $('use-best').checked;
  $('minimum').disabled = best;
  $('minimum-shown').textContent = best ? 'best' : Number($('minimum').value).toFixed(2);
  const all = metadata.classes.length;
  $('classes-shown').textContent = shown.size === all ? '' : `${shown.size} of ${all}`;
  results.forEach(draw);
}

function addClass(name, label) {
  const row = document.createElement('label');
  const box = Object.assign(document.createElement('input'), { type: 'checkbox' });
  const color = document.createElement('i');
  color.style.setProperty('--hue', colorOf(label));
  box.onchange = () => {
    shown[box.checked ? 'add' : 'delete'](label);
    showAll();
  };
  box.checked = true;
  shown.add(label);
  row.append(box, color, name);
  $('class-list').append(row);
}

function checkAll(checked) {
  metadata.classes.forEach((_, label) => shown[checked ? 'add' : 'delete'](label));
  $('class-list').querySelectorAll('input').forEach((box) => (box.checked = checked));
  showAll();
}

$('minimum').oninput = $('use-best').onchange = showAll;
$('all').onclick = () => checkAll(true);
$('none').onclick = () => checkAll(false);

$('clear').onclick = () => {
  results.length = 0;
  $('results').replaceChildren();
  $('save').disabled = $('clear').disabled = true;
};

// ----------------------------------------------------------------------------- JSON

/** What is shown, in the form of the `predictions.json` of `mmnextvit predict`. */
function describe() {
  const best = $('use-best').checked;
  const withBest = (name, label) => [name, findBest(label)];
  return {
    config: metadata.config,
    classes: metadata.classes,
    score_thr: best
      ? Object.fromEntries(metadata.classes.map(withBest))
      : Number($('minimum').value),
    box_format: "x1, y1, x2, y2 in pixels, from the image's top left corner",
    predictions: results.map((result) => ({
      file: result.file,
      objects: listShown(result).map(({ label, ...object }) => object),
    })),
  };
}

$('save').onclick = () => {
  const text = `${JSON.stringify(describe(), null, 1)}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  Object.assign(document.createElement('a'), {
    href: address,
    download: 'predictions.json',
  }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
};
