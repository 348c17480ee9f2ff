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
  /** In hex. */
  sha256: string;
}
declare const self: {
  location: Location;
  clients: { claim(): Promise<void> };
  addEventListener(type: "install" | "activate", listen: (event: ExtendableEvent) => void): void;
  addEventListener(type: "fetch", listen: (event: FetchEvent) => void): void;
  addEventListener(type: "message", listen: (event: MessageEvent) => void): void;
  skipWaiting(): Promise<void>;
};

const LIST = "files.json";
/** What a page says whose user wants the newer version now. */
const TAKE_OVER = "take over";
const asked = new URL(self.location.href).searchParams;
// Caches belong to an origin, on which other pages can lie in other folders.
const scope = new URL("./", self.location.href).href;
const prefix = `deepspectrumlite ${scope} `;
const name = prefix + asked.get("version");

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("message", ({ data }) => data === TAKE_OVER && void self.skipWaiting());
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
  // No skipWaiting yet: a page that is open goes on with the files that it began with.
}

/** Of the runtime's variants, each some 10 MB, only the one that this browser runs. */
function isNeeded({ path }: File): boolean {
  return !path.startsWith("wasm/") || path.startsWith(`wasm/${asked.get("runtime")}.`);
}

async function keep(cache: Cache, file: File, before: Map<string, Cache>): Promise<void> {
  const url = scope + file.path;
  const old = await before.get(`${file.path} ${file.sha256}`)?.match(url);
  await cache.put(url, old ?? (await download(url, file.sha256)));
}

/** A file as the list knows it; another one, half an upload perhaps, refuses the whole version. */
async function download(url: string, sha256: string): Promise<Response> {
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  const digest = await crypto.subtle.digest("SHA-256", await response.clone().arrayBuffer());
  const found = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0"));
  if (found.join("") !== sha256) throw new Error(`${url}: not the file that ${LIST} lists`);
  return response;
}

/** Where files of earlier versions lie, by path and digest. */
async function olderFiles(): Promise<Map<string, Cache>> {
  const found = new Map<string, Cache>();
  for (const each of await ownCaches()) {
    const cache = await caches.open(each);
    const list = await cache.match(scope + LIST);
    const { files } = ((await list?.json()) ?? { files: [] }) as { files: File[] };
    for (const { path, sha256 } of files) found.set(`${path} ${sha256}`, cache);
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
