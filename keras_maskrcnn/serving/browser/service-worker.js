// Keeps the files of this folder in the browser: the small ones at once, the model when the page loads it. Without a
// network they come from there. `export --format web` fills in the version, a digest of all files.

const VERSION = "@VERSION@";
const FILES = ["./", "@FILES@"];
const PREFIX = `keras-maskrcnn ${self.registration.scope} `;
const CACHE = PREFIX + VERSION;
// With these headers a page may use several threads.
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "cross-origin",
};

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(self.registration.scope)) event.respondWith(answer(event));
});

async function install() {
  const cache = await caches.open(CACHE);
  await cache.addAll(FILES.map((name) => new Request(name, { cache: "no-cache" })));
  await self.skipWaiting();
}

async function activate() {
  const others = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(others.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function answer(event) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(event.request, { ignoreSearch: true });
  return isolated(kept ?? (await fromServer(event, cache)));
}

async function fromServer(event, cache) {
  const response = await fetch(event.request, { cache: "no-cache" });
  if (response.status === 200 && new URL(event.request.url).pathname.endsWith("/model.onnx")) {
    const kept = cache.put(event.request, response.clone());
    event.waitUntil(kept.catch(() => {})); // no room: the page works, but not without a network
  }
  return response;
}

function isolated(response) {
  if (response.type === "opaque" || response.type === "error") return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
