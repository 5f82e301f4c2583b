// Turn image files into model input as isoflop/data/images.py does: decode, convert the channels, resize to a square.
// Images are {width, height, channels, data}, data a Uint8Array [height, width, channels].

const MOST_PIXELS = 89_478_485; // Pillow's limit against decompression bombs
const PRECISION = 22; // fractional bits of Pillow's fixed-point coefficients

// Decode a file or Blob: apply the EXIF orientation, composite on white, ignore color profiles.
export async function decode(blob, channels) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  try {
    if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error(`${bitmap.width} × ${bitmap.height} pixels exceed the limit`);
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    return fromCanvas(context, channels);
  } finally {
    bitmap.close();
  }
}

// Read an opaque canvas as 3 channels or 1 (ITU-R 601 luma, rounded like Pillow).
export function fromCanvas(context, channels) {
  const { width, height } = context.canvas;
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += channels) {
    const [red, green, blue] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (channels === 1) data[to] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    else data.set([red, green, blue], to);
  }
  return { width, height, channels, data };
}

// Return whether a canvas returns the pixels that were put on it; protections against fingerprinting alter them.
export function canvasIsTrue() {
  const put = new ImageData(Uint8ClampedArray.from({ length: 4096 }, (_, index) => (index % 4 === 3 ? 255 : index * 37)), 32);
  const context = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
  context.putImageData(put, 0, 0);
  return context.getImageData(0, 0, 32, 32).data.every((value, index) => value === put.data[index]);
}

// `resize`: crop, pad or stretch, from the model's metadata.
export function fitToSquare(image, size, resize) {
  const { width, height } = image;
  if (resize === "crop") {
    const side = Math.min(width, height);
    return resample(image, size, size, (width - side) / 2, (height - side) / 2, side, side);
  }
  if (resize === "stretch") return resample(image, size, size, 0, 0, width, height);
  const scale = size / Math.max(width, height);
  const inner = [width, height].map((length) => Math.max(1, roundHalfToEven(length * scale)));
  return pad(resample(image, ...inner, 0, 0, width, height), size);
}

// Pillow's bicubic resampling of a box: horizontal, then vertical; the filter widens with the scale when downsampling.
function resample(image, width, height, left, top, boxWidth, boxHeight) {
  let result = image;
  if (width !== image.width || left || boxWidth !== width) {
    result = transpose(resampleRows(transpose(result), width, left, boxWidth));
  }
  if (height !== image.height || top || boxHeight !== height) result = resampleRows(result, height, top, boxHeight);
  return result;
}

// Each output row is a weighted sum of input rows.
function resampleRows(image, height, top, boxHeight) {
  const rowLength = image.width * image.channels;
  const data = new Uint8Array(height * rowLength);
  const sums = new Float64Array(rowLength);
  weights(image.height, top, boxHeight, height).forEach(({ first, factors }, y) => {
    sums.fill(1 << (PRECISION - 1));
    factors.forEach((factor, index) => {
      const start = (first + index) * rowLength;
      for (let x = 0; x < rowLength; x++) sums[x] += factor * image.data[start + x];
    });
    for (let x = 0; x < rowLength; x++) data[y * rowLength + x] = Math.min(255, Math.max(0, sums[x] >> PRECISION));
  });
  return { ...image, height, data };
}

function weights(inputLength, start, boxLength, outputLength) {
  const scale = boxLength / outputLength;
  const widening = Math.max(scale, 1);
  return Array.from({ length: outputLength }, (_, index) => {
    const center = start + (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - 2 * widening + 0.5));
    const end = Math.min(inputLength, Math.trunc(center + 2 * widening + 0.5));
    const raw = Array.from({ length: end - first }, (_, x) => bicubic((x + first - center + 0.5) / widening));
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    const factors = raw.map((weight) => {
      const exact = (weight / total) * (1 << PRECISION);
      return Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
    });
    return { first, factors };
  });
}

// Keys (1981) with a = -0.5.
function bicubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

function transpose({ width, height, channels, data }) {
  const turned = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) turned[(x * height + y) * channels + c] = data[(y * width + x) * channels + c];
    }
  }
  return { width: height, height: width, channels, data: turned };
}

// Pad to a square with the median color of the image's border.
function pad(image, size) {
  const { width, height, channels, data } = image;
  if (width === size && height === size) return image;
  const color = Array.from({ length: channels }, (_, c) => {
    const at = (x, y) => data[(y * width + x) * channels + c];
    const border = [];
    for (let x = 0; x < width; x++) border.push(at(x, 0), at(x, height - 1));
    for (let y = 0; y < height; y++) border.push(at(0, y), at(width - 1, y));
    border.sort((a, b) => a - b);
    return Math.trunc((border[border.length / 2 - 1] + border[border.length / 2]) / 2);
  });
  const square = Uint8Array.from({ length: size * size * channels }, (_, index) => color[index % channels]);
  const [left, top] = [Math.floor((size - width) / 2), Math.floor((size - height) / 2)];
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * width * channels, (y + 1) * width * channels);
    square.set(row, ((y + top) * size + left) * channels);
  }
  return { width: size, height: size, channels, data: square };
}

function roundHalfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}
