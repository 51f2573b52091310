// Classifies a dropped photo in the browser. The model is `model.onnx` beside this file, written by
//   keras-spm export birds.keras model.onnx --include-preprocessing
// or another address: index.html?model=birds.onnx. Nothing is sent to a server.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const TOP = 5;
const element = (id) => document.getElementById(id);

/** Returns {name: value} of an ONNX file's metadata, which onnxruntime-web does not give. */
export function readMetadata(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder();
  const METADATA = 14; // Number of the field `metadata_props` of a ModelProto.

  /** Yields [number, start, end] of the fields of a message of Protocol Buffers. */
  function* fields(position, end) {
    const varint = () => {
      let value = 0;
      for (let scale = 1; ; scale *= 128) {
        const byte = view.getUint8(position++);
        value += (byte & 127) * scale;
        if (byte < 128) return value;
      }
    };
    while (position < end) {
      const key = varint();
      const start = { 0: () => (varint(), position), 1: () => position + 8, 5: () => position + 4 };
      if (key % 8 === 2) {
        const length = varint();
        yield [Math.floor(key / 8), position, position + length];
        position += length;
      } else {
        position = start[key % 8]();
      }
    }
  }

  const metadata = {};
  for (const [number, start, end] of fields(0, bytes.byteLength)) {
    if (number !== METADATA) continue;
    const [name, value] = [...fields(start, end)].map(([, from, to]) =>
      text.decode(bytes.subarray(from, to)),
    );
    metadata[name] = value;
  }
  return metadata;
}

/** Returns the pixels of an image file, float32 of shape [1, height, width, 3], from 0 to 255. */
async function readPixels(file) {
  const image = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const pixels = new Float32Array((data.length / 4) * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    for (let channel = 0; channel < 3; channel++) pixels[to++] = data[from + channel];
  }
  return new ort.Tensor("float32", pixels, [1, image.height, image.width, 3]);
}

/** Returns probabilities of the model's output. */
function toProbabilities(values, metadata) {
  const [output] = JSON.parse(metadata.outputs);
  if (output === "probabilities") return values;
  if (JSON.parse(metadata.multi_label)) return values.map((logit) => 1 / (1 + Math.exp(-logit)));
  const largest = Math.max(...values);
  const exponentials = values.map((logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((first, second) => first + second);
  return exponentials.map((each) => each / sum);
}

async function loadModel(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const metadata = readMetadata(bytes);
  const names = JSON.parse(metadata.class_names ?? "null");
  const session = await ort.InferenceSession.create(bytes);
  return async (file) => {
    const outputs = await session.run({ images: await readPixels(file) });
    const [values] = Object.values(outputs).map((each) => Array.from(each.data));
    return toProbabilities(values, metadata)
      .map((probability, index) => [names?.[index] ?? String(index), probability])
      .sort((first, second) => second[1] - first[1])
      .slice(0, TOP);
  };
}

const model = loadModel(new URLSearchParams(location.search).get("model") ?? "model.onnx");

async function show(file) {
  element("photo").src = URL.createObjectURL(file);
  element("photo").hidden = false;
  element("classes").replaceChildren();
  element("status").textContent = "Classifying …";
  try {
    const classify = await model;
    const started = performance.now();
    const classes = await classify(file);
    for (const [name, probability] of classes) {
      const row = element("classes").insertRow();
      row.insertCell().textContent = name;
      row.insertCell().textContent = `${(100 * probability).toFixed(1)} %`;
    }
    element("status").textContent = `${Math.round(performance.now() - started)} ms`;
  } catch (error) {
    element("status").textContent = `This file cannot be classified: ${error.message}`;
  }
}

const drop = element("drop");
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
  });
}
drop.querySelector("input").addEventListener("change", (event) => show(event.target.files[0]));
model.then(
  () => (element("status").textContent = "Ready."),
  (error) => (element("status").textContent = `The model cannot be loaded: ${error.message}`),
);
