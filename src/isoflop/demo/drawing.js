// A canvas to draw on; the drawing is classified like a file.

// Call `onChange(context)` after each stroke segment. `stroke`: initial brush width as a share of the canvas width.
export function openPad(elements, { stroke, dark }, onChange) {
  const { canvas, brush, ink, paper, clear } = elements;
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  brush.value = Math.round(stroke * canvas.width);
  [ink.value, paper.value] = dark ? ["#ffffff", "#000000"] : ["#202020", "#ffffff"];
  let last = null;

  function wipe() {
    context.fillStyle = paper.value;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  function line(from, to) {
    context.strokeStyle = ink.value;
    context.lineWidth = Number(brush.value);
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    onChange(context);
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    line(last, next);
    last = next;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  clear.addEventListener("click", wipe);
  paper.addEventListener("change", wipe);
  wipe();
}
