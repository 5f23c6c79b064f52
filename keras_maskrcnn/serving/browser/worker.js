// Runs the model in onnxruntime-web, so that the page stays responsive. First question: {content, threads} of the .onnx
// file; then {data, dims} of each image. Answers: {outputs, milliseconds}, or {error}.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";

let session;

self.onmessage = async ({ data: question }) => {
  try {
    self.postMessage(question.content ? await load(question) : await run(question));
  } catch (error) {
    self.postMessage({ error: explained(error, question) });
  }
};

async function load({ content, threads }) {
  ort.env.wasm.wasmPaths = { wasm: new URL("onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error"; // it warns of inputs that have defaults
  session = await ort.InferenceSession.create(new Uint8Array(content), { executionProviders: ["wasm"] });
  return { outputs: {} };
}

async function run({ data, dims }) {
  const began = performance.now();
  const answer = await session.run({ images: new ort.Tensor("uint8", data, dims) });
  const milliseconds = performance.now() - began;
  const kept = Object.entries(answer).map(([name, tensor]) => [name, { data: tensor.data, dims: tensor.dims }]);
  return { outputs: Object.fromEntries(kept), milliseconds };
}

function explained(error, question) {
  const reason = String(error?.message ?? error).slice(0, 300);
  if (question.content) {
    return (
      `The model cannot be started in this browser: it needs WebAssembly with SIMD (${reason}). ` +
      "Update the browser, or export the folder again."
    );
  }
  return `The model failed on this image (${reason}). Choose a smaller image; if that fails too, load the page again.`;
}
