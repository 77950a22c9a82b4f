// Groupings of alike adapters, and trials of tune.
function GroupingsView() {
  const names = Array.from({ length: site.groupings.lists }, (_, i) => `groupings-${i}`);
  const { parts, done, error } = usePages(names);
  if (error) return html`<${Page} title="Groups"><${Failed} error=${error} /><//>`;
  return html`<${Page} title="Groups">
    <p>A grouping puts adapters together whose updates are alike; each group becomes a merge.</p>
    ${done ? html`<${Table} caption="Groupings, the latest first" rows=${parts.flat()} empty="No adapters were grouped in this catalog." columns=${[
      { name: "grouping", cell: (row) => html`<a href=${addressOf(`grouping/${row[0]}`)}><${Name}>${row[1]}<//></a>` },
      { name: "found", cell: (row) => day(row[2]) },
      { name: "groups", number: true, cell: (row) => number(row[3]) },
      { name: "adapters in groups", number: true, cell: (row) => number(row[4]) },
      { name: "alone", number: true, cell: (row) => number(row[5]) },
    ]} />` : html`<${Waiting} />`}
  <//>`;
}

function GroupingView({ id }) {
  const { value: found, error, done } = useAwaited(() => loadDetails("grouping", id), id);
  if (!done) return html`<${Page} title="Grouping"><${Waiting} /><//>`;
  if (error) return html`<${Page} title="Grouping"><${Failed} error=${error} /><//>`;
  if (found.length !== 1) return html`<${Several} kind="grouping" asked=${id} found=${found} />`;
  const [value] = found;
  return html`<${Page} title=${value.name} over="Grouping">
    <${Facts} rows=${[["found", day(value.found_at)], ["mean silhouette", value.silhouette === null ? null : number(value.silhouette)]]} />
    <h2>Groups</h2>
    <${Table} caption="Groups, each with the merge of its adapters" rows=${value.groups} empty="No adapter is in a group." columns=${[
      { name: "group", cell: (row) => html`<${Name}>${row[0]}<//>` },
      { name: "merge", cell: (row) => (row[1] ? html`<${MergeLink} of=${row[1]} />` : "–") },
      { name: "adapters", number: true, cell: (row) => number(row[2]) },
      { name: "mean similarity", number: true, cell: (row) => number(row[3]) },
    ]} />
    <h2>Adapters alone</h2>
    <${Table} caption="Adapters that are in no group" rows=${value.alone} empty="Every adapter is in a group." columns=${[
      { name: "adapter", cell: (row) => html`<${AdapterLink} of=${row} />` },
      { name: "nearest group", cell: (row) => row[2] || "–" },
      { name: "similarity to it", number: true, cell: (row) => number(row[3]) },
    ]} />
  <//>`;
}

function TrialsView({ route }) {
  const page = Number(route.query.get("page")) || 1;
  const list = Math.max(0, Math.min(Math.floor(((page - 1) * SHOWN) / site.rows), site.trials.lists - 1));
  const { parts, done, error } = usePages(site.trials.lists ? [`trials-${list}`] : []);
  if (error) return html`<${Page} title="Trials"><${Failed} error=${error} /><//>`;
  const columns = site.trials.columns.map((name, i) => ({
    name, cell: (row) => (typeof row[i] === "number" ? number(row[i]) : row[i] === null ? "–" : html`<${Name}>${String(row[i])}<//>`),
  }));
  return html`<${Page} title="Trials">
    <p>What tune tried, and what each trial scored.</p>
    ${done ? html`<${Table} caption="Trials" columns=${columns} rows=${parts.flat()} total=${site.trials.n} first=${list * site.rows} page=${page} onPage=${(to) => refine({ page: to })} empty="There are no trials." />` : html`<${Waiting} />`}
  <//>`;
}
