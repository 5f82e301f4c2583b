// The model in ONNX Runtime's WebAssembly: on one thread, as the report's latencies are.

const MOST_IMAGES = 64; // at a time, and of large images as many as the page can wait for
const MOST_PIXELS = 1 << 18;

export class Classifier {
  // `facts` is what demo.json says; `model` the bytes of the ONNX file.
  static async open(facts, model) {
    const ort = await import(facts.runtime.script);
    ort.env.wasm.wasmPaths = { wasm: new URL(facts.runtime.wasm, import.meta.url).href };
    ort.env.wasm.numThreads = 1;
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    return new Classifier(facts, ort, await ort.InferenceSession.create(model, options));
  }

  constructor(facts, ort, session) {
    Object.assign(this, { facts, ort, session });
    this.batch = facts.batch ?? Math.min(MOST_IMAGES, Math.max(1, Math.floor(MOST_PIXELS / facts.image_size ** 2)));
    this.queue = Promise.resolve(); // a session does one run at a time
  }

  // {logits, probabilities} of one image: Float32Array [classes].
  async run(pixels) {
    return (await this.runAll([pixels]))[0];
  }

  // The same for each of a list of images. `between` is awaited between batches.
  async runAll(images, between = async () => {}) {
    const answers = [];
    for (let start = 0; start < images.length; start += this.batch) {
      if (start) await between();
      answers.push(...await this.#runBatch(images.slice(start, start + this.batch)));
    }
    return answers;
  }

  // Milliseconds an image, one at a time: the mean of as many runs as fit into `budget` ms, the first one left out.
  async time(pixels, budget = 100) {
    await this.run(pixels);
    const began = performance.now();
    let runs = 0;
    do {
      await this.run(pixels);
      runs++;
    } while (performance.now() - began < budget);
    return { ms: (performance.now() - began) / runs, runs };
  }

  async #runBatch(images) {
    const { image_size: size, channels, classes } = this.facts;
    const data = new Uint8Array(images.length * size * size * channels);
    images.forEach((image, index) => data.set(image.data, index * size * size * channels));
    const feeds = { images: new this.ort.Tensor("uint8", data, [images.length, size, size, channels]) };
    const turn = this.queue.then(() => this.session.run(feeds));
    this.queue = turn.catch(() => {});
    const { logits, probabilities } = await turn;
    const part = (tensor, index) => tensor.data.slice(index * classes.length, (index + 1) * classes.length);
    return images.map((_, index) => ({ logits: part(logits, index), probabilities: part(probabilities, index) }));
  }
}

// Indices of the `count` largest values, the first of equal ones first.
export function best(values, count) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}
