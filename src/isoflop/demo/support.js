// Report missing browser features before the modules load; a page opened from disk (file://) cannot load modules.
"use strict";

(function () {
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, // a function that returns a 128-bit vector
    1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];
  const shared = [0, 97, 115, 109, 1, 0, 0, 0, 5, 4, 1, 3, 1, 1]; // shared memory

  function problem() {
    if (location.protocol === "file:") {
      return "This page was opened from disk, where browsers block its scripts and the model. Run “isoflop demo” in the " +
        "project, or “python3 -m http.server --bind 127.0.0.1” in this folder.";
    }
    const missing = [];
    if (typeof WebAssembly !== "object") missing.push("WebAssembly");
    else {
      if (!WebAssembly.validate(new Uint8Array(simd))) missing.push("WebAssembly SIMD");
      if (!WebAssembly.validate(new Uint8Array(shared))) missing.push("WebAssembly threads");
    }
    if (!("noModule" in HTMLScriptElement.prototype)) missing.push("JavaScript modules");
    if (typeof OffscreenCanvas !== "function") missing.push("OffscreenCanvas");
    if (typeof createImageBitmap !== "function") missing.push("createImageBitmap");
    return missing.length ? "This browser does not support " + missing.join(", ") + ", which the model needs. Use a current " +
      "version of Chrome, Edge, Firefox or Safari." : "";
  }

  window.showProblem = function (text) {
    const place = document.getElementById("problem");
    place.textContent = text;
    place.hidden = !text;
  };
  window.unsupported = problem();
  window.showProblem(window.unsupported);
})();
