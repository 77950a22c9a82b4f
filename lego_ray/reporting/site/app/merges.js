// Merges: the list, and one.
const MERGE_COLUMNS = [
  { name: "merge", cell: (row) => html`<${MergeLink} of=${row} />${row[9] ? "" : html` <small>not the latest</small>`}` },
  { name: "method", wide: true, cell: (row) => row[3] },
  { name: "rank", number: true, cell: (row) => number(row[4]) },
  { name: "adapters", number: true, cell: (row) => number(row[5]) },
  { name: "published", cell: (row) => day(row[6]) },
  { name: "output", wide: true, cell: (row) => html`<${Name}>${row[8]}<//>` },
];

function MergesView({ route }) {
  const { query } = route;
  const page = Number(query.get("page")) || 1;
  const words = wordsOf(query.get("q") || "");
  const latest = query.get("versions") !== "all";
  const isWhole = !words.length && !latest;
  const list = Math.min(Math.max(0, Math.floor(((page - 1) * SHOWN) / site.rows)), Math.max(0, site.merges.lists - 1));
  const names = useMemo(() => {
    const all = Array.from({ length: site.merges.lists }, (_, i) => `merges-${i}`);
    return isWhole ? all.slice(list, list + 1) : all;
  }, [isWhole, list]);
  const { parts, done, error } = usePages(names);
  const rows = useMemo(() => {
    const found = parts.flat();
    return isWhole ? found : found.filter((row) => (!latest || row[9]) && hasWords(`${row[1]} ${row[3]} ${row[8]}`.toLowerCase(), row[0], words));
  }, [parts, query.toString()]);
  return html`<${Page} title="Merges">
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <${Search} label="Search name, method, output or merge_id" value=${query.get("q") || ""} onInput=${(q) => refine({ q })} />
      <${Choice} label="Versions" value=${latest ? "" : "all"} options=${[["", "latest of each name"], ["all", "all"]]} onChange=${(versions) => refine({ versions })} />
    </form>
    <p role="status" id="found">${isWhole ? count(site.merges.n, "merge") : `${count(rows.length, "merge")} found${done ? "" : ", still searching"}`}.</p>
    ${error ? html`<${Failed} error=${error} />` : !done && !rows.length ? html`<${Waiting} />` : html`<${Table}
      caption="Merges, the newest first" columns=${MERGE_COLUMNS} rows=${rows} total=${isWhole ? site.merges.n : undefined}
      first=${isWhole ? list * site.rows : 0} page=${page} onPage=${(to) => refine({ page: to })} empty="No merge fits." />`}
  <//>`;
}

const MADE_OF = [
  { name: "adapter", cell: (row) => html`<${AdapterLink} of=${row} />` },
  { name: "share", number: true, cell: (row) => percent(row[3]) },
  { name: "MSUs", number: true, cell: (row) => number(row[2]) },
  { name: "similarity to its group", wide: true, number: true, cell: (row) => number(row[4]) },
  { name: "output of", wide: true, cell: (row) => (row[5] ? html`<${MergeLink} of=${row[5]} />` : "–") },
];
const TOTALS = { error: "relative error, mean over modules", error_max: "relative error, worst module", norm_ratio: "norm over that of the sum, mean" };
const FACT_NAMES = { created_at: "published", seconds: "seconds of the run", output_uri: "output", content_hash: "sha256 of the weights", n_sites: "modules", n_msus: "MSUs" };

function MergeView({ id }) {
  const { value: found, error, done } = useAwaited(() => loadDetails("merge", id), id);
  if (!done) return html`<${Page} title="Merge"><${Waiting} /><//>`;
  if (error) return html`<${Page} title="Merge"><${Failed} error=${error} /><//>`;
  if (found.length !== 1) return html`<${Several} kind="merge" asked=${id} found=${found} />`;
  const [value] = found;
  const facts = value.facts.map(([name, it]) => [FACT_NAMES[name] || name, name === "created_at" ? day(it) : typeof it === "number" && name !== "seed" ? number(it) : it === null ? null : html`<${Name}>${it}<//>`]);
  return html`<${Page} title=${`${value.name}, version ${value.version}`} over="Merge">
    <${Facts} rows=${[
      ["merge_id", html`<code>${value.id}</code>`], ["adapters", number(value.adapters.length)], ...facts,
      ...value.totals.map(([name, it]) => [TOTALS[name], it === null ? null : number(it)]),
      ["updates", value.parent && html`<${MergeLink} of=${value.parent} />`],
      ["updated by", value.updates.length ? value.updates.map((each) => html`<${MergeLink} of=${each} /> `) : null],
      ["licenses of its adapters", value.licenses.join(", ")],
    ]} />
    ${value.conflicts.length > 0 && html`<p>Check before you pass it on (not legal advice):</p><ul>${value.conflicts.map((each) => html`<li>${each}</li>`)}</ul>`}
    <h2>Lineage</h2>
    <${Lineage} kind="merge" id=${value.key} />
    <h2>Adapters in it</h2>
    <${Table} caption="Adapters in this merge, the largest share first" columns=${MADE_OF} rows=${value.adapters} empty="It holds no adapter." />
    ${value.into.length > 0 && html`<h2>Merges made from it</h2>
    <${Table} caption="Merges that hold the output of this one" columns=${HELD} rows=${value.into} />`}
    <h2>Versions</h2>
    <${Table} caption="Versions of this name" rows=${value.versions} columns=${[
      { name: "version", cell: (row) => (row[0] === value.key ? html`<strong>${row[1]}, this one</strong>` : html`<a href=${addressOf(`merge/${row[0]}`)}>version ${row[1]}</a>`) },
      { name: "published", cell: (row) => day(row[2]) },
    ]} />
    <h2>Recipe and software</h2>
    <${Facts} rows=${value.recipe} />
    <${Facts} rows=${value.software.map(([name, it]) => [`version of ${name}`, it])} />
  <//>`;
}
