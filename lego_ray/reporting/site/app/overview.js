// The first view, and the catalog's health.
const Key = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

function healthSaid() {
  const { ok, problems } = site.health;
  if (ok === null) return "not checked";
  return ok ? "ok" : count(problems, "problem");
}

function Overview() {
  const { parts } = usePages(site.merges.lists ? ["merges-0"] : []);
  const status = Object.entries(site.adapters.status).sort();
  return html`<${Page} title=${site.catalog} over="A catalog of LoRA adapters, by lego-ray">
    <dl class="key">
      <${Key} name="adapters"><a href="#/adapters">${number(site.adapters.n)}</a><//>
      ${status.filter(([name]) => name !== "ok").map(([name, n]) => html`<${Key} name=${name}><a href=${addressOf("adapters", { status: name })}>${number(n)}</a><//>`)}
      <${Key} name=${`merges, of ${count(site.merges.names, "name")}`}><a href="#/merges?versions=all">${number(site.merges.n)}</a><//>
      <${Key} name="groupings"><a href="#/groups">${number(site.groupings.n)}</a><//>
      ${site.trials && html`<${Key} name="trials"><a href="#/trials">${number(site.trials.n)}</a><//>`}
      <${Key} name="health"><a href="#/health">${healthSaid()}</a><//>
    </dl>
    <h2>Newest merges</h2>
    <${Table} caption="The newest merges" columns=${MERGE_COLUMNS} rows=${parts.flat().slice(0, 10)} empty=${site.merges.n ? "Loading" : "Nothing was merged into this catalog yet."} />
    <h2>Base models</h2>
    <${Table} caption="Adapters by base model" rows=${site.adapters.facets.counts.base} empty="No adapter was scanned." columns=${[
      { name: "base model", cell: ([base]) => html`<a href=${addressOf("adapters", { base: base === "" ? NONE : base })}><${Name}>${base === "" ? "none named" : base}<//></a>` },
      { name: "adapters", number: true, cell: (row) => number(row[1]) },
    ]} />
  <//>`;
}

const PROBLEMS = [
  { name: "about", cell: (row) => (row[0] && row[1] ? html`<${MergeLink} of=${row} />` : row[3] || row[1] || "–") },
  { name: "problem", cell: (row) => html`<${Name}>${row[5]}<//>` },
  { name: "where", wide: true, cell: (row) => html`<${Name}>${row[4]}<//>` },
  { name: "repair", cell: (row) => row[6] || "–" },
];

function Check({ check }) {
  if (!check) return html`<${Missing}>This catalog was not checked when this page was written.<//>`;
  return html`
    <p>${check.ok ? `No problem was found in ${count(check.merges, "merge")}.` : `${count(check.problems.length + check.more, "problem")} in a catalog of ${count(check.merges, "merge")}.`}${check.deep ? "" : " Files were not read whole; lego-ray catalog check --deep does that."}</p>
    ${check.unpublished > 0 && html`<p>Details of ${count(check.unpublished, "merge")} have no row: of runs that were stopped, or that run now.</p>`}
    ${check.problems.length > 0 && html`<${Table} caption="Problems" columns=${PROBLEMS} rows=${check.problems} />`}
    ${check.more > 0 && html`<p>${number(check.more)} more are not shown here.</p>`}`;
}

function Garbage({ garbage }) {
  if (!garbage) return html`<${Missing}>Give --root to lego-ray catalog site to see which files of merges gc would delete below it.<//>`;
  return html`
    <p>Below <${Name}>${garbage.root}<//>, gc would delete ${count(garbage.files, "file")} (${size(garbage.bytes)})${garbage.details ? `, and ${count(garbage.details, "row")} of details` : ""}.</p>
    ${garbage.outputs.length > 0 && html`<${Table} caption="What no row refers to" rows=${garbage.outputs} columns=${[
      { name: "where", cell: (row) => html`<${Name}>${row[0]}<//>` },
      { name: "what", cell: (row) => row[1] },
      { name: "files", number: true, cell: (row) => number(row[3]) },
      { name: "size", number: true, cell: (row) => size(row[4]) },
      { name: "last written", wide: true, cell: (row) => day(row[5]) },
    ]} />`}
    ${garbage.more > 0 && html`<p>${number(garbage.more)} more are not shown here.</p>`}
    ${garbage.kept.length > 0 && html`<${Table} caption="What no row refers to and gc keeps" rows=${garbage.kept} columns=${[
      { name: "where", cell: (row) => html`<${Name}>${row[0]}<//>` },
      { name: "why", cell: (row) => row[1] },
    ]} />`}
    ${garbage.unseen.map((sentence) => html`<p>${sentence}</p>`)}`;
}

function HealthView() {
  const { parts, done, error } = usePages(["health"]);
  if (error) return html`<${Page} title="Health"><${Failed} error=${error} /><//>`;
  if (!done) return html`<${Page} title="Health"><${Waiting} /><//>`;
  const [health] = parts;
  return html`<${Page} title="Health">
    ${health.notes.map((note) => html`<${Missing}>${note}<//>`)}
    <h2>Check</h2>
    <${Check} check=${health.check} />
    <h2>Tables of the catalog</h2>
    <${Table} caption="Tables, and what vacuum would remove" rows=${health.tables} columns=${[
      { name: "table", cell: (row) => row[0] },
      { name: "rows", number: true, cell: (row) => number(row[1]) },
      { name: "files", number: true, cell: (row) => number(row[2]) },
      { name: "size", number: true, cell: (row) => size(row[3]) },
      { name: "vacuum would remove", number: true, cell: (row) => (row[4] === null ? "–" : `${count(row[4], "file")}, ${size(row[5])}`) },
    ]} />
    <h2>Adapters</h2>
    <${Table} caption="Weights files of the adapters that were scanned" rows=${health.adapters} columns=${[
      { name: "status", cell: (row) => html`<${Status} of=${row[0]} />` },
      { name: "adapters", number: true, cell: (row) => number(row[1]) },
      { name: "size", number: true, cell: (row) => size(row[2]) },
    ]} />
    <h2>What gc would free</h2>
    <${Garbage} garbage=${health.garbage} />
  <//>`;
}
