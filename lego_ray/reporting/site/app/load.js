// Data pages, each a script that hands its data over. A page opened from disk cannot fetch files.
const { h, render } = preact;
const { useState, useEffect, useMemo, useRef } = preactHooks;
const html = htm.bind(h);

let site = null;
const loading = new Map();

window.legoRayPage = (name, data) => {
  if (name === "site") {
    site = data;
    start();
  } else if (loading.has(name)) {
    loading.get(name).resolve(data);
  }
};

// The data of a page, asked for once.
function loadPage(name) {
  if (loading.has(name)) return loading.get(name).promise;
  const entry = {};
  entry.promise = new Promise((resolve, reject) => {
    entry.resolve = resolve;
    const script = document.createElement("script");
    script.src = site.files[name];
    script.onload = () => script.remove();
    script.onerror = () => {
      loading.delete(name);
      script.remove();
      reject(new Error("These data are not here any more. The site may have been written again: reload the page."));
    };
    document.head.append(script);
  });
  loading.set(name, entry);
  return entry.promise;
}

// The file of details that a key is in: FNV-1a, as `bucket_of` computes it.
function bucketOf(key, buckets) {
  let found = 2166136261;
  for (const character of key) found = Math.imul(found ^ character.charCodeAt(0), 16777619) >>> 0;
  return found % buckets;
}

// A key has so many digits of an identity, and no fewer of them than that many name one.
const KEY_DIGITS = 32, FEWEST_DIGITS = 6;

// The details of the adapters, merges or groupings that an address may mean: by its key, its whole
// identity, or the first digits of that.
async function loadDetails(kind, asked) {
  const buckets = { adapter: site.adapters, merge: site.merges, grouping: site.groupings }[kind].details;
  if (!buckets || !/^[\x20-\x7e]+$/.test(asked)) return [];
  const text = asked.toLowerCase();
  const key = /^[0-9a-f]+$/.test(text) ? text.slice(0, KEY_DIGITS) : text;
  const fits = (entry) => entry.key.startsWith(key) && (text === key || !entry.id || entry.id.startsWith(text));
  if (key.length >= KEY_DIGITS) return (await loadPage(`${kind}-${bucketOf(key, buckets)}`)).filter(fits);
  if (key.length < FEWEST_DIGITS) return [];
  const pages = Array.from({ length: buckets }, (_, i) => loadPage(`${kind}-${i}`));
  return (await Promise.all(pages)).flat().filter(fits);
}

// The details of one; undefined if there is none.
async function loadDetail(kind, key) {
  return (await loadDetails(kind, key)).find((entry) => entry.key === key);
}

// Pages, one after another; `parts` grows while they arrive.
function usePages(names) {
  const id = names.join(" ");
  const [state, setState] = useState({ id: null, parts: [], error: null });
  useEffect(() => {
    let wanted = true;
    (async () => {
      const parts = [];
      try {
        for (const name of names) {
          parts.push(await loadPage(name));
          if (!wanted) return;
          setState({ id, parts: [...parts], error: null });
        }
      } catch (error) {
        if (wanted) setState({ id, parts, error });
      }
    })();
    return () => { wanted = false; };
  }, [id]);
  const own = state.id === id ? state : { parts: [], error: null };
  return { ...own, done: own.parts.length === names.length };
}

// What a promise gives: {value, error}; neither while it is awaited.
function useAwaited(make, id) {
  const [state, setState] = useState({});
  useEffect(() => {
    let wanted = true;
    make().then(
      (value) => wanted && setState({ id, value, done: true }),
      (error) => wanted && setState({ id, error, done: true }),
    );
    return () => { wanted = false; };
  }, [id]);
  return state.id === id ? state : {};
}
