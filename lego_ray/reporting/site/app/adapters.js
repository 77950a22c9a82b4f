// Adapters: the list, and one.
const A = { key: 0, name: 1, uri: 2, base: 3, low: 4, high: 5, license: 6, status: 7, reason: 8, tags: 9, merges: 10 };
const FILTERS = [["base", "Base model"], ["rank", "Rank"], ["tag", "Tag"], ["license", "License"], ["status", "Status"]];
const texts = new WeakMap();

function textOf(row) {
  if (!texts.has(row)) {
    const tags = row[A.tags].map((pair) => pair.join(": "));
    texts.set(row, [row[A.name], row[A.uri], row[A.base], row[A.license], row[A.reason], ...tags].join(" ").toLowerCase());
  }
  return texts.get(row);
}

const TESTS = {
  base: (row, value) => (row[A.base] || "") === value,
  license: (row, value) => (row[A.license] || "") === value,
  status: (row, value) => row[A.status] === value,
  rank: (row, value) => row[A.low] !== null && row[A.low] <= Number(value) && Number(value) <= row[A.high],
  tag: (row, value) => row[A.tags].some((pair) => pair.join(": ") === value),
};
// A filter for what names no value: an option cannot be empty, that means any.
const NONE = "(none)";

function rankOf(row) {
  if (row[A.low] === null) return "–";
  return row[A.low] === row[A.high] ? number(row[A.low]) : `${row[A.low]} to ${row[A.high]}`;
}

const ORDERS = {
  name: null,
  rank: (one, other) => (other[A.high] ?? -1) - (one[A.high] ?? -1),
  merges: (one, other) => other[A.merges] - one[A.merges],
};

const ADAPTER_COLUMNS = [
  { name: "adapter", cell: (row) => html`<${AdapterLink} of=${row} /><small class="wide"><${Name}>${row[A.uri]}<//></small>` },
  { name: "base model", wide: true, cell: (row) => html`<${Name}>${row[A.base] || "–"}<//>` },
  { name: "rank", number: true, cell: rankOf },
  { name: "tags", wide: true, cell: (row) => html`<ul class="tags">${row[A.tags].slice(0, 6).map((pair) => html`<li>${pair.join(": ")}</li>`)}${row[A.tags].length > 6 && html`<li>${row[A.tags].length - 6} more</li>`}</ul>` },
  { name: "license", wide: true, cell: (row) => row[A.license] || "–" },
  { name: "status", cell: (row) => html`<${Status} of=${row[A.status]} />${row[A.reason] && html` <span class="reason"><${Name}>${row[A.reason]}<//></span>`}` },
  { name: "in merges", number: true, cell: (row) => number(row[A.merges]) },
];

function AdaptersView({ route }) {
  const { query } = route;
  const page = Number(query.get("page")) || 1;
  const order = query.get("order") in ORDERS ? query.get("order") : "name";
  const words = wordsOf(query.get("q") || "");
  const asked = FILTERS.map(([name]) => [name, query.get(name)]).filter(([, value]) => value);
  const isWhole = !words.length && !asked.length && order === "name";
  const last = site.adapters.lists - 1;
  const list = Math.min(Math.max(0, Math.floor(((page - 1) * SHOWN) / site.rows)), Math.max(0, last));
  const names = useMemo(() => {
    const all = Array.from({ length: site.adapters.lists }, (_, i) => `adapters-${i}`);
    return isWhole ? all.slice(list, list + 1) : all;
  }, [isWhole, list]);
  const { parts, done, error } = usePages(names);
  const rows = useMemo(() => {
    const found = parts.flat();
    if (isWhole) return found;
    const fit = found.filter((row) => hasWords(textOf(row), row[A.key], words) && asked.every(([name, value]) => TESTS[name](row, value === NONE ? "" : value)));
    return ORDERS[order] ? fit.sort(ORDERS[order]) : fit;
  }, [parts, route.query.toString()]);
  const facets = site.adapters.facets;
  const offered = (name) => [
    ["", "any"],
    ...facets.counts[name].map(([value, n]) => [value === "" ? NONE : String(value), `${value === "" ? "none named" : value} (${number(n)})`]),
  ];
  const cut = FILTERS.filter(([name]) => facets.more[name]);
  const said = isWhole ? count(site.adapters.n, "adapter") : `${count(rows.length, "adapter")} found${done ? "" : ", still searching"}`;
  return html`<${Page} title="Adapters">
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <${Search} label="Search name, place, tags, reason or adapter_id" value=${query.get("q") || ""} onInput=${(q) => refine({ q })} />
      ${FILTERS.map(([name, label]) => html`<${Choice} key=${name} label=${label} value=${query.get(name) || ""} options=${offered(name)} onChange=${(value) => refine({ [name]: value })} />`)}
      <${Choice} label="Order" value=${order} options=${[["name", "name"], ["rank", "largest rank first"], ["merges", "in most merges first"]]} onChange=${(value) => refine({ order: value === "name" ? "" : value })} />
    </form>
    ${cut.length > 0 && html`<p class="over">${cut.map(([name, label]) => `${label}: ${number(facets.more[name])} rarer values are not offered here; search for them.`).join(" ")}</p>`}
    <p role="status" id="found">${said}.${!isWhole && html` <a href="#/adapters">Show all</a>`}</p>
    ${error ? html`<${Failed} error=${error} />` : !done && !rows.length ? html`<${Waiting} />` : html`<${Table}
      caption="Adapters" columns=${ADAPTER_COLUMNS} rows=${rows} total=${isWhole ? site.adapters.n : undefined}
      first=${isWhole ? list * site.rows : 0} page=${page} onPage=${(to) => refine({ page: to })} empty="No adapter fits." />`}
  <//>`;
}

const HELD = [
  { name: "merge", cell: (row) => html`<${MergeLink} of=${row} />` },
  { name: "share of the merge", number: true, cell: (row) => percent(row[4]) },
  { name: "MSUs", number: true, cell: (row) => number(row[3]) },
];
const ADAPTER_FACTS = ["place", "status", "reason", "base model", "format", "smallest rank", "largest rank", "modules", "parameters", "size", "element type", "license", "revision", "found", "sha256 of the tensors"];

function AdapterView({ id }) {
  const { value: found, error, done } = useAwaited(() => loadDetails("adapter", id), id);
  if (!done) return html`<${Page} title="Adapter"><${Waiting} /><//>`;
  if (error) return html`<${Page} title="Adapter"><${Failed} error=${error} /><//>`;
  if (found.length !== 1) return html`<${Several} kind="adapter" asked=${id} found=${found} />`;
  const [value] = found;
  const shown = (row) => ADAPTER_FACTS.map((name, i) => {
    const it = row[i];
    if (name === "status") return [name, html`<${Status} of=${it} />`];
    if (name === "size") return [name, it === null ? null : size(it)];
    if (name === "found") return [name, day(it)];
    return [name, typeof it === "number" ? number(it) : it && html`<${Name}>${it}<//>`];
  });
  return html`<${Page} title=${value.name} over="Adapter">
    <${Facts} rows=${[["adapter_id", value.id && html`<code>${value.id}</code>`], ["output of", value.made.length ? value.made.map((made) => html`<${MergeLink} of=${made} /> `) : null]]} />
    ${value.rows.length === 0 && html`<${Missing}>It was never scanned into this catalog. Merges name it by its adapter_id.<//>`}
    ${value.rows.length > 1 && html`<p>It was found at ${count(value.rows.length, "place")}.</p>`}
    ${value.rows.map((row) => html`<${Facts} rows=${[...shown(row), ["tags", row[ADAPTER_FACTS.length].length ? row[ADAPTER_FACTS.length].map((pair) => pair.join(": ")).join(", ") : null]]} />`)}
    <h2>Lineage</h2>
    <${Lineage} kind="adapter" id=${value.key} />
    <h2>Merges that hold it</h2>
    <${Table} caption="Merges that hold this adapter, the newest first" columns=${HELD} rows=${value.merges} empty="No merge holds it." />
    ${value.groups.length > 0 && html`<h2>Groups it was put in</h2>
    <${Table} caption="Groups, the latest first" rows=${value.groups} columns=${[
      { name: "grouping", cell: (row) => html`<a href=${addressOf(`grouping/${row[0]}`)}><${Name}>${row[1]}<//>, ${day(row[7])}</a>` },
      { name: "group", cell: (row) => (row[2] === null ? "alone" : row[3] ? html`<${MergeLink} of=${[row[3], row[2], null]} />` : row[2]) },
      { name: "similarity to it", number: true, cell: (row) => number(row[4]) },
      { name: "nearest other group", wide: true, cell: (row) => row[5] || "–" },
      { name: "similarity to that", wide: true, number: true, cell: (row) => number(row[6]) },
    ]} />`}
  <//>`;
}
