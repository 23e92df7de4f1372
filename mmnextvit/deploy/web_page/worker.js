// The detector, in a thread of its own, so that the page stays responsive.
//
// It gets {id, source} and answers {id, found, size, view, milliseconds} or {id, problem}.
// Before that it tells {loaded}, a part from 0 to 1, and then {metadata} or {problem}.

import { decode } from './decode.js';
import { readOutputs } from './detections.js';
import { layOut, makeInput, toImage } from './layout.js';
import * as ort from './onnxruntime/ort.wasm.min.mjs';

const VIEW = 1600; // pixels of the longer side of what is shown

// Threads are ONNX Runtime's own choice: one, unless the server's headers allow more.
ort.env.wasm.wasmPaths = new URL('./onnxruntime/', import.meta.url).href;
ort.env.logLevel = 'error';

/** Asks for a file of this folder. */
async function request(name) {
  const response = await fetch(new URL(name, import.meta.url), { cache: 'no-cache' });
  if (!response.ok) throw new Error(`${name} is missing beside the page: copy it there`);
  return response;
}

/** The ONNX file, and how far it has come meanwhile. */
async function loadModel() {
  const response = await request('model.onnx');
  const size = Number(response.headers.get('Content-Length'));
  const parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    if (size) postMessage({ loaded: Math.min(loaded / size, 1) });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function open() {
  const metadata = await (await request('metadata.json')).json();
  const model = await loadModel();
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ['wasm'],
  });
  return { metadata, session };
}

async function detect({ metadata, session }, source) {
  const began = performance.now();
  const image = await decode(source);
  const size = [image.height, image.width];
  const layout = layOut(size, metadata.resize);
  const [height, width] = layout.canvas;
  const input = new ort.Tensor('float32', makeInput(image, layout), [1, 3, height, width]);
  const prepared = performance.now();
  const outputs = await session.run({ [session.inputNames[0]]: input });
  const found = readOutputs(outputs, metadata);
  found.boxes = toImage(found.boxes, layout);
  const ended = performance.now();
  const milliseconds = { prepare: prepared - began, detect: ended - prepared };
  return { found, size, view: await show(image), milliseconds };
}

/** What the page shows: the pixels that the detector saw, without alpha. */
function show({ width, height, data }) {
  for (let i = 3; i < data.length; i += 4) data[i] = 255;
  const scale = Math.min(1, VIEW / Math.max(width, height));
  return createImageBitmap(new ImageData(data, width, height), {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
    resizeQuality: 'medium',
  });
}

const opened = open();
opened.then(
  ({ metadata }) => postMessage({ metadata }),
  (error) => postMessage({ problem: error.message }),
);

let turn = Promise.resolve(); // one image after another
onmessage = ({ data: { id, source } }) => {
  turn = turn.then(async () => {
    try {
      const result = await detect(await opened, source);
      postMessage({ id, ...result }, [result.view]);
    } catch (error) {
      postMessage({ id, problem: error.message });
    }
  });
};
