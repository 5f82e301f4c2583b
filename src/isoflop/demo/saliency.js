// Occlusion map (Zeiler and Fergus, 2014, "Visualizing and Understanding Convolutional Networks", section 4.2).
// isoflop/evaluation/occlusion.py computes the same map for the report.

const MOST_POSITIONS = 11; // of the square along a side: 121 runs

// Hide a square of the image's mean color around evenly spaced pixels and measure how far the probability of `target`
// drops. The square is a fifth of the image wide, and less at the border, which it may cross.
// Return `falls`, Float32Array [size, size]: the drop when the square around the pixel is hidden, interpolated linearly
// between these pixels; the `largest` drop with its square; and the number of runs.
export async function occlusionSaliency(classifier, image, target, probability, between) {
  const size = image.width;
  const reach = Math.max(1, Math.floor(size / 10));
  const middles = positionsAlong(size);
  const color = meanColor(image);
  const squares = middles.flatMap((row) => middles.map((column) => squareAround(row, column, reach, size)));
  const answers = await classifier.runAll(squares.map((square) => hide(image, square, color)), between);
  const grid = answers.map(({ probabilities }) => probability - probabilities[target]);
  const best = grid.indexOf(Math.max(...grid));
  const along = Array.from({ length: size }, (_, pixel) => neighbors(middles, pixel));
  const falls = new Float32Array(size * size);
  along.forEach((rows, y) => along.forEach((columns, x) => {
    for (const [row, a] of rows) for (const [column, b] of columns) falls[y * size + x] += a * b * grid[row * middles.length + column];
  }));
  return { falls, largest: { fall: grid[best], ...squares[best] }, runs: squares.length };
}

// Return the [index, weight] of the positions before and after a pixel.
function neighbors(middles, pixel) {
  const after = middles.findIndex((middle) => middle >= pixel);
  if (middles[after] === pixel) return [[after, 1]];
  const share = (pixel - middles[after - 1]) / (middles[after] - middles[after - 1]);
  return [[after - 1, 1 - share], [after, share]];
}

// Return evenly spaced pixels, from border to border.
export function positionsAlong(size) {
  const count = Math.min(size, MOST_POSITIONS);
  return Array.from({ length: count }, (_, index) => (count > 1 ? Math.round((index * (size - 1)) / (count - 1)) : 0));
}

// Return the part of the square that is inside the image; `bottom` and `right` are exclusive.
function squareAround(row, column, reach, size) {
  const [top, left] = [Math.max(0, row - reach), Math.max(0, column - reach)];
  return { top, left, bottom: Math.min(size, row + reach + 1), right: Math.min(size, column + reach + 1) };
}

function meanColor({ channels, data }) {
  return Array.from({ length: channels }, (_, c) => {
    let sum = 0;
    for (let index = c; index < data.length; index += channels) sum += data[index];
    return Math.round((sum * channels) / data.length);
  });
}

function hide(image, { top, left, bottom, right }, color) {
  const data = image.data.slice();
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) data.set(color, (y * image.width + x) * image.channels);
  }
  return { ...image, data };
}
