// Pixels on canvases: as they are, and under what occlusion found.

const FOR = [214, 90, 20]; // hiding it makes the answer less probable
const AGAINST = [40, 110, 190];

export function drawPixels(canvas, image) {
  paint(canvas, image.width, image.height, (index) => colourAt(image, index));
}

// The image in pale grey, and over it orange and blue as strong as the falls of probability are to their largest.
export function drawFalls(canvas, image, falls) {
  const most = Math.max(...falls.map(Math.abs), 1e-6);
  paint(canvas, image.width, image.height, (index) => {
    const [red, green, blue] = colourAt(image, index);
    const grey = 70 + 0.5 * (0.299 * red + 0.587 * green + 0.114 * blue);
    const strength = 0.9 * Math.min(1, Math.abs(falls[index]) / most);
    return (falls[index] > 0 ? FOR : AGAINST).map((part) => grey + strength * (part - grey));
  });
}

function colourAt({ channels, data }, index) {
  if (channels === 1) return [data[index], data[index], data[index]];
  return Array.from(data.subarray(3 * index, 3 * index + 3));
}

function paint(canvas, width, height, colour) {
  const rgba = new ImageData(width, height);
  for (let index = 0; index < width * height; index++) rgba.data.set([...colour(index), 255], 4 * index);
  canvas.width = width; // enlarged by CSS, pixel for pixel
  canvas.height = height;
  canvas.getContext("2d").putImageData(rgba, 0, 0);
}
