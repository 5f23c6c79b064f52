// Registers the service worker, which keeps the files for use without a network and lets the model use several threads.

const RELOADED = "keras-maskrcnn reloaded";

/** Let the service worker answer this page's requests, where browsers allow one: on https:// and on localhost. */
export async function prepareOffline() {
  if (!navigator.serviceWorker) return;
  try {
    const registration = await navigator.serviceWorker.register(new URL("service-worker.js", import.meta.url));
    if (!(await finished(registration))) return;
  } catch {
    return; // forbidden by the browser's settings: the page works, but not without a network
  }
  if (!navigator.serviceWorker.controller) await taken();
  if (!self.crossOriginIsolated) await reloadOnce();
}

/** Whether the browser has kept the model. */
export async function isKept() {
  return Boolean(navigator.serviceWorker?.controller && (await caches.match(new URL("model.onnx", import.meta.url))));
}

// Whether the worker is installed; it is not if a file is missing or the disk is full.
function finished(registration) {
  const worker = registration.installing ?? registration.waiting ?? registration.active;
  return new Promise((resolve) => {
    const look = () => {
      if (worker.state === "activated") resolve(true);
      if (worker.state === "redundant") resolve(false);
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

// Until the worker serves this page. After a reload that passes by workers it never does.
function taken() {
  return new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    setTimeout(resolve, 1000);
  });
}

// The page itself came without the headers of isolation, the first time. In a frame of another page it never has them.
async function reloadOnce() {
  if (!navigator.serviceWorker.controller || sessionStorage.getItem(RELOADED)) return;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
  await new Promise(() => {}); // nothing more on this page
}
