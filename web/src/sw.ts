/** The service worker: keeps all files of the page, and answers with them before the network. */

interface ExtendableEvent extends Event {
  waitUntil(promise: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface File {
  path: string;
  digest: string;
}
declare const self: {
  location: Location;
  clients: { claim(): Promise<void> };
  addEventListener(type: "install" | "activate", listen: (event: ExtendableEvent) => void): void;
  addEventListener(type: "fetch", listen: (event: FetchEvent) => void): void;
};

const LIST = "files.json";
const asked = new URL(self.location.href).searchParams;
// Caches belong to an origin, on which other pages can lie in other folders.
const scope = new URL("./", self.location.href).href;
const prefix = `deepspectrumlite ${scope} `;
const name = prefix + asked.get("version");

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || !url.href.startsWith(scope)) return;
  event.respondWith(url.href === scope + LIST ? newest(event.request) : kept(event.request));
});

async function install(): Promise<void> {
  const cache = await caches.open(name);
  const before = await olderFiles();
  const response = await fetch(LIST, { cache: "no-store" });
  const { files } = (await response.clone().json()) as { files: File[] };
  await Promise.all(files.filter(isNeeded).map((file) => keep(cache, file, before)));
  // The list comes last: a cache that has it is whole.
  await cache.put(scope + LIST, response);
  // No skipWaiting: a page that is open goes on with the files that it began with.
}

/** Of the runtime's variants, each some 10 MB, only the one that this browser runs. */
function isNeeded({ path }: File): boolean {
  return !path.startsWith("wasm/") || path.startsWith(`wasm/${asked.get("runtime")}.`);
}

async function keep(cache: Cache, file: File, before: Map<string, Cache>): Promise<void> {
  const url = scope + file.path;
  const old = await before.get(`${file.path} ${file.digest}`)?.match(url);
  await (old ? cache.put(url, old) : cache.add(new Request(url, { cache: "no-cache" })));
}

/** Where files of earlier versions lie, by path and digest. */
async function olderFiles(): Promise<Map<string, Cache>> {
  const found = new Map<string, Cache>();
  for (const each of await ownCaches()) {
    const cache = await caches.open(each);
    const list = await cache.match(scope + LIST);
    const { files } = ((await list?.json()) ?? { files: [] }) as { files: File[] };
    for (const { path, digest } of files) found.set(`${path} ${digest}`, cache);
  }
  return found;
}

async function activate(): Promise<void> {
  const old = (await ownCaches()).filter((each) => each !== name);
  await Promise.all(old.map((each) => caches.delete(each)));
  await self.clients.claim();
}

async function ownCaches(): Promise<string[]> {
  return (await caches.keys()).filter((each) => each.startsWith(prefix));
}

async function kept(request: Request): Promise<Response> {
  const cache = await caches.open(name);
  const url = new URL(request.url);
  const path = url.href.replace(url.search, "") === scope ? `${scope}index.html` : request.url;
  return (await cache.match(path, { ignoreSearch: true })) ?? fetch(request);
}

async function newest(request: Request): Promise<Response> {
  try {
    return await fetch(request);
  } catch (error) {
    const old = await (await caches.open(name)).match(request, { ignoreSearch: true });
    if (old) return old;
    throw error;
  }
}

export {};
