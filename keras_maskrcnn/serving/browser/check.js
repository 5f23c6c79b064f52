// Not a module: it also runs where modules do not, and says why the page cannot work there.

(function () {
  function reason() {
    if (location.protocol === "file:") {
      return (
        "Browsers load this page from a server only. In its folder run: python -m http.server. " +
        "Then open http://localhost:8000."
      );
    }
    if (typeof WebAssembly === "undefined") {
      return "This browser has no WebAssembly, in which the model runs. Update it, or use another one.";
    }
    return "";
  }

  const text = reason();
  if (text) {
    const error = document.getElementById("error");
    error.textContent = text;
    error.hidden = false;
    document.getElementById("status").textContent = "";
    document.getElementById("progress").hidden = true;
  }
})();
