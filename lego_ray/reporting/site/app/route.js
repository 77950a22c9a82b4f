// Where the reader is: #/adapters?q=french&page=2
function routeOf(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean).map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  return { path, parts, query: new URLSearchParams(query || "") };
}

function useRoute() {
  const [route, setRoute] = useState(() => routeOf(location.hash));
  useEffect(() => {
    const changed = () => setRoute(routeOf(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

function addressOf(path, query) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query || {})) if (value) given.set(name, value);
  return `#/${path}${[...given].length ? `?${given}` : ""}`;
}

// Changes what the address asks for, in place: going back leaves the view. It is the address of this
// moment that is changed, since a search is taken over a while after it was typed.
function refine(changes) {
  const route = routeOf(location.hash);
  const query = { ...Object.fromEntries(route.query), ...changes };
  if (!("page" in changes)) delete query.page;
  location.replace(addressOf(route.path, query));
}
