// What this browser lacks, said before the modules load: a page from disk (file://) cannot even load those.
"use strict";

(function () {
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, // a function that makes a vector of 16 bytes
    1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];
  const shared = [0, 97, 115, 109, 1, 0, 0, 0, 5, 4, 1, 3, 1, 1]; // a memory that threads may share

  function problem() {
    if (location.protocol === "file:") {
      return "This page was opened from disk, where browsers let it load neither its scripts nor the model. Run " +
        "“isoflop demo” in the project, or, in this folder, “python3 -m http.server --bind 127.0.0.1”.";
    }
    const lacking = [];
    if (typeof WebAssembly !== "object") lacking.push("WebAssembly");
    else {
      if (!WebAssembly.validate(new Uint8Array(simd))) lacking.push("WebAssembly SIMD");
      if (!WebAssembly.validate(new Uint8Array(shared))) lacking.push("WebAssembly threads");
    }
    if (!("noModule" in HTMLScriptElement.prototype)) lacking.push("JavaScript modules");
    if (typeof OffscreenCanvas !== "function") lacking.push("OffscreenCanvas");
    if (typeof createImageBitmap !== "function") lacking.push("createImageBitmap");
    return lacking.length ? "This browser lacks " + lacking.join(", ") + ", which running the model takes. Current " +
      "versions of Chrome, Edge, Firefox and Safari have it." : "";
  }

  window.showProblem = function (text) {
    const place = document.getElementById("problem");
    place.textContent = text;
    place.hidden = !text;
  };
  window.unsupported = problem();
  window.showProblem(window.unsupported);
})();
