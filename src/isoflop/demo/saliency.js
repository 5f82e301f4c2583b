// Occlusion saliency (Zeiler and Fergus, 2014, "Visualizing and Understanding Convolutional Networks", section 4.2).

const MOST_PLACES = 17; // of the square along a side: 289 runs

// How far the probability of class `target` falls, from `probability`, where a square of the image's mean colour hides
// each place: Float32Array [size, size], for a pixel the mean over all squares that cover it; and the largest fall.
export async function occlusionSaliency(classifier, image, target, probability, between) {
  const size = image.width;
  const square = Math.max(2, Math.round(size / 5));
  const starts = placesAlong(size, square);
  const colour = meanColour(image);
  const places = starts.flatMap((top) => starts.map((left) => ({ top, left })));
  const hidden = places.map((place) => hide(image, place, square, colour));
  const answers = await classifier.runAll(hidden, between);
  const [sums, counts] = [new Float32Array(size * size), new Float32Array(size * size)];
  let largest = { fall: 0 };
  places.forEach(({ top, left }, index) => {
    const fall = probability - answers[index].probabilities[target];
    if (fall > largest.fall) largest = { fall, top, left };
    for (let y = top; y < top + square; y++) {
      for (let x = left; x < left + square; x++) {
        sums[y * size + x] += fall;
        counts[y * size + x]++;
      }
    }
  });
  return { falls: sums.map((sum, index) => sum / counts[index]), largest, square, runs: places.length };
}

// Starts of the square along a side, evenly apart, from border to border.
export function placesAlong(size, square) {
  const last = size - square;
  const count = Math.min(last + 1, MOST_PLACES);
  return Array.from({ length: count }, (_, index) => (count > 1 ? Math.round((index * last) / (count - 1)) : 0));
}

function meanColour({ channels, data }) {
  return Array.from({ length: channels }, (_, c) => {
    let sum = 0;
    for (let index = c; index < data.length; index += channels) sum += data[index];
    return Math.round((sum * channels) / data.length);
  });
}

function hide(image, { top, left }, square, colour) {
  const data = image.data.slice();
  for (let y = top; y < top + square; y++) {
    for (let x = left; x < left + square; x++) data.set(colour, (y * image.width + x) * image.channels);
  }
  return { ...image, data };
}
