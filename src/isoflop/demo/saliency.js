// Occlusion map (Zeiler and Fergus, 2014, "Visualizing and Understanding Convolutional Networks", section 4.2).
// isoflop/evaluation/occlusion.py computes the same map for the report.

const MOST_POSITIONS = 9; // of the square along a side: 81 runs

// Slide a square of the image's mean color over the image and measure how far the probability of `target` drops.
// Return `falls`, Float32Array [size, size]: the drop when a square around the pixel is hidden, interpolated linearly
// between the positions; the `largest` drop with its position; the side of the `square`, and the number of runs.
export async function occlusionSaliency(classifier, image, target, probability, between) {
  const size = image.width;
  const square = Math.min(size, Math.max(2, Math.round(size / 5)));
  const starts = positionsAlong(size, square);
  const color = meanColor(image);
  const positions = starts.flatMap((top) => starts.map((left) => ({ top, left })));
  const hidden = positions.map((position) => hide(image, position, square, color));
  const answers = await classifier.runAll(hidden, between);
  const grid = answers.map(({ probabilities }) => probability - probabilities[target]);
  const best = grid.indexOf(Math.max(...grid));
  const largest = { fall: grid[best], ...positions[best] };
  const along = Array.from({ length: size }, (_, pixel) => neighbors(starts.map((start) => start + (square - 1) / 2), pixel));
  const falls = new Float32Array(size * size);
  along.forEach((rows, y) => along.forEach((columns, x) => {
    for (const [row, a] of rows) for (const [column, b] of columns) falls[y * size + x] += a * b * grid[row * starts.length + column];
  }));
  return { falls, largest, square, runs: positions.length };
}

// Return the [index, weight] of the centers before and after a pixel; beyond the outermost center, that one alone.
function neighbors(centers, pixel) {
  const after = centers.findIndex((center) => center >= pixel);
  if (after === 0) return [[0, 1]];
  if (after < 0) return [[centers.length - 1, 1]];
  const share = (pixel - centers[after - 1]) / (centers[after] - centers[after - 1]);
  return [[after - 1, 1 - share], [after, share]];
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
