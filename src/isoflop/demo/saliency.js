// Occlusion map (Zeiler and Fergus, 2014, "Visualizing and Understanding Convolutional Networks", section 4.2).

const MOST_POSITIONS = 17; // of the square along a side: 289 runs

// Slide a square of the image's mean color over the image and measure how far the probability of `target` drops.
// Return `falls`, Float32Array [size, size], the mean drop over all squares that cover a pixel; and the `largest` drop.
export async function occlusionSaliency(classifier, image, target, probability, between) {
  const size = image.width;
  const square = Math.max(2, Math.round(size / 5));
  const starts = positionsAlong(size, square);
  const color = meanColor(image);
  const positions = starts.flatMap((top) => starts.map((left) => ({ top, left })));
  const hidden = positions.map((position) => hide(image, position, square, color));
  const answers = await classifier.runAll(hidden, between);
  const [sums, counts] = [new Float32Array(size * size), new Float32Array(size * size)];
  let largest = { fall: 0 };
  positions.forEach(({ top, left }, index) => {
    const fall = probability - answers[index].probabilities[target];
    if (fall > largest.fall) largest = { fall, top, left };
    for (let y = top; y < top + square; y++) {
      for (let x = left; x < left + square; x++) {
        sums[y * size + x] += fall;
        counts[y * size + x]++;
      }
    }
  });
  return { falls: sums.map((sum, index) => sum / counts[index]), largest, square, runs: positions.length };
}

// Return evenly spaced start positions of the square, from border to border.
export function positionsAlong(size, square) {
  const last = size - square;
  const count = Math.min(last + 1, MOST_POSITIONS);
  return Array.from({ length: count }, (_, index) => (count > 1 ? Math.round((index * last) / (count - 1)) : 0));
}

function meanColor({ channels, data }) {
  return Array.from({ length: channels }, (_, c) => {
    let sum = 0;
    for (let index = c; index < data.length; index += channels) sum += data[index];
    return Math.round((sum * channels) / data.length);
  });
}

function hide(image, { top, left }, square, color) {
  const data = image.data.slice();
  for (let y = top; y < top + square; y++) {
    for (let x = left; x < left + square; x++) data.set(color, (y * image.width + x) * image.channels);
  }
  return { ...image, data };
}
