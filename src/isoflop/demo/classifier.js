// Run the model in ONNX Runtime Web (WebAssembly) on one thread, like the report's headline latency.

const MOST_IMAGES = 64; // per batch
const MOST_PIXELS = 1 << 18; // per batch, so that the page stays responsive with large images

export class Classifier {
  // `facts`: content of demo.json; `model`: bytes of the ONNX file.
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
    this.queue = Promise.resolve(); // a session runs one batch at a time
  }

  // Return {logits, probabilities} of one image: Float32Array [classes].
  async run(pixels) {
    return (await this.runAll([pixels]))[0];
  }

  // Return the same for each image of a list. `between` is awaited between batches.
  async runAll(images, between = async () => {}) {
    const answers = [];
    for (let start = 0; start < images.length; start += this.batch) {
      if (start) await between();
      answers.push(...await this.#runBatch(images.slice(start, start + this.batch)));
    }
    return answers;
  }

  // Measure the latency (ms, batch size 1): the mean of as many runs as fit into `budget` ms, after a warmup run.
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

// Return the indices of the `count` largest values; ties keep their order.
export function best(values, count) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}
