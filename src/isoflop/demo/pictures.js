// Paint images and occlusion maps on canvases.

const FOR = [214, 90, 20]; // hiding the pixel lowers the probability
const AGAINST = [40, 110, 190];
export const LEAST_CHANGE = 0.05; // of a probability: a smaller change is not worth a color or a sentence

export function drawPixels(canvas, image) {
  paint(canvas, image.width, image.height, (index) => colorAt(image, index));
}

// Paint the image in pale gray, overlaid with orange (drop) and blue (rise), scaled to the largest change, or to the
// least that matters if that is larger.
export function drawFalls(canvas, image, falls) {
  const most = falls.reduce((largest, fall) => Math.max(largest, Math.abs(fall)), LEAST_CHANGE);
  paint(canvas, image.width, image.height, (index) => {
    const [red, green, blue] = colorAt(image, index);
    const gray = 70 + 0.5 * (0.299 * red + 0.587 * green + 0.114 * blue);
    const strength = 0.9 * Math.min(1, Math.abs(falls[index]) / most);
    return (falls[index] > 0 ? FOR : AGAINST).map((part) => gray + strength * (part - gray));
  });
}

function colorAt({ channels, data }, index) {
  if (channels === 1) return [data[index], data[index], data[index]];
  return Array.from(data.subarray(3 * index, 3 * index + 3));
}

function paint(canvas, width, height, color) {
  const rgba = new ImageData(width, height);
  for (let index = 0; index < width * height; index++) rgba.data.set([...color(index), 255], 4 * index);
  canvas.width = width; // CSS scales it up without smoothing
  canvas.height = height;
  canvas.getContext("2d").putImageData(rgba, 0, 0);
}
