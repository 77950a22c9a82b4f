// The frame: navigation, and the view that the address asks for.
function NotFound() {
  return html`<${Page} title="Not here"><${Missing}>Nothing in this catalog has this address. <a href="#/">Go to the start.</a><//><//>`;
}

// What an address may mean that does not say which; where it means nothing, that.
function Several({ kind, asked, found }) {
  if (!found.length) return html`<${NotFound} />`;
  return html`<${Page} title=${`${count(found.length, kind)} begin with ${asked}`}>
    <p>Choose one, or give more digits.</p>
    <ul>${found.map((each) => html`<li key=${each.key}><a href=${addressOf(`${kind}/${each.key}`)}><code>${each.key.slice(0, 12)}</code> <${Name}>${each.name}<//>${each.version ? `, version ${each.version}` : ""}</a></li>`)}</ul>
  <//>`;
}

const SECTIONS = [["", "Overview"], ["adapters", "Adapters"], ["merges", "Merges"], ["groups", "Groups"], ["trials", "Trials"], ["health", "Health"]];
const HOMES = { adapter: "adapters", merge: "merges", grouping: "groups" };

function View({ route }) {
  const [section = "", id = ""] = route.parts;
  switch (section) {
    case "": return html`<${Overview} />`;
    case "adapters": return html`<${AdaptersView} route=${route} />`;
    case "adapter": return html`<${AdapterView} key=${id} id=${id} />`;
    case "merges": return html`<${MergesView} route=${route} />`;
    case "merge": return html`<${MergeView} key=${id} id=${id} />`;
    case "groups": return html`<${GroupingsView} />`;
    case "grouping": return html`<${GroupingView} key=${id} id=${id} />`;
    case "trials": return site.trials ? html`<${TrialsView} route=${route} />` : html`<${NotFound} />`;
    case "health": return html`<${HealthView} />`;
    default: return html`<${NotFound} />`;
  }
}

function App() {
  const route = useRoute();
  const [section = ""] = route.parts;
  const here = HOMES[section] || section;
  const skip = (event) => {
    event.preventDefault();
    document.querySelector("h1").focus();
  };
  return html`
    <a class="skip" href="#content" onClick=${skip}>Skip to the content</a>
    <header><nav aria-label="Sections"><ul>
      ${SECTIONS.filter(([name]) => name !== "trials" || site.trials).map(([name, said]) => html`<li key=${name}><a href=${`#/${name}`} aria-current=${name === here ? "page" : undefined}>${said}</a></li>`)}
    </ul></nav></header>
    <${View} route=${route} />
    <footer>${site.latest ? `The newest merge is of ${day(site.latest)} UTC. ` : ""}Times are UTC. Made by lego-ray catalog site; needs no network.</footer>`;
}

function start() {
  render(html`<${App} />`, document.getElementById("app"));
}
