// What views are made of.
const SHOWN = 50;

const number = (value) => (value === null || value === undefined ? "–" : Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(3))));
const count = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;
const percent = (share) => (share === null || share === undefined ? "–" : `${Number((100 * share).toPrecision(3))} %`);
const day = (time) => (time ? time.slice(0, 16).replace("T", " ") : "–");

function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let rest = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (rest < 1024) return `${unit === "B" ? rest : rest.toFixed(1)} ${unit}`;
    rest /= 1024;
  }
  return `${rest.toFixed(1)} TiB`;
}

// A name of others: whatever direction its letters run in, the words around it stay in place.
const Name = ({ children }) => html`<bdi>${children}</bdi>`;
const AdapterLink = ({ of: [key, name] }) => html`<a href=${addressOf(`adapter/${key}`)}><${Name}>${name}<//></a>`;

function MergeLink({ of: [key, name, version] }) {
  if (name === null) return html`<span>${key.slice(0, 12)} (not in this catalog)</span>`;
  return html`<a href=${addressOf(`merge/${key}`)}><${Name}>${name}<//>${version === null ? "" : `, version ${version}`}</a>`;
}

const Status = ({ of }) => html`<span class=${`status ${of === "ok" ? "good" : "bad"}`}>${of}</span>`;
const Missing = ({ children }) => html`<p class="missing">${children}</p>`;
const Waiting = () => html`<p role="status">Loading</p>`;
const Failed = ({ error }) => html`<p class="missing" role="alert">${error.message}</p>`;

// A page: its title has the focus, so that a reader who followed a link hears where they are.
let isFirst = true;
function Page({ title, over, children }) {
  const head = useRef(null);
  useEffect(() => {
    document.title = `${title}: lego-ray catalog`;
    if (!isFirst) {
      scrollTo(0, 0);
      head.current.focus({ preventScroll: true });
    }
    isFirst = false;
  }, [title]);
  return html`<main id="content">
    ${over && html`<p class="over">${over}</p>`}
    <h1 tabindex="-1" ref=${head}><${Name}>${title}<//></h1>
    ${children}
  </main>`;
}

// Names and values; values that are not known are left out.
function Facts({ rows }) {
  const known = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return html`<dl class="facts">${known.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

// A table of which one page is shown. `total` is for rows that are not loaded; then `rows` begin at `first`.
function Table({ caption, columns, rows, total, first = 0, page, onPage, empty = "None." }) {
  const [own, setOwn] = useState(1);
  const n = total ?? rows.length;
  const pages = Math.max(1, Math.ceil(n / SHOWN));
  const current = Math.min(Math.max(1, page ?? own), pages);
  const turn = onPage ?? setOwn;
  const begin = (current - 1) * SHOWN;
  if (!n) return html`<${Missing}>${empty}<//>`;
  const shown = rows.slice(begin - first, begin - first + SHOWN);
  return html`<div class="table">
    <div class="scroll" role="region" tabindex="0" aria-label=${caption}><table>
      <caption>${caption}</caption>
      <thead><tr>${columns.map((c) => html`<th scope="col" class=${`${c.number ? "n" : ""} ${c.wide ? "wide" : ""}`}>${c.name}</th>`)}</tr></thead>
      <tbody>${shown.map((row, i) => html`<tr key=${begin + i}>${columns.map((c, j) => {
        const name = `${c.number ? "n" : ""} ${c.wide ? "wide" : ""}`;
        return j ? html`<td class=${name}>${c.cell(row)}</td>` : html`<th scope="row" class=${name}>${c.cell(row)}</th>`;
      })}</tr>`)}</tbody>
    </table></div>
    ${pages > 1 && html`<div class="pager" role="group" aria-label=${`Pages of: ${caption}`}>
      <button type="button" disabled=${current === 1} onClick=${() => turn(current - 1)}>Previous</button>
      <span>Rows ${number(begin + 1)} to ${number(Math.min(n, begin + SHOWN))} of ${number(n)}</span>
      <button type="button" disabled=${current === pages} onClick=${() => turn(current + 1)}>Next</button>
    </div>`}
  </div>`;
}

// A choice with a label.
function Choice({ label, value, options, onChange }) {
  return html`<label>${label}<select value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${options.map(([name, said]) => html`<option value=${name} selected=${name === value}>${said}</option>`)}
  </select></label>`;
}

// A search, taken over when typing stops.
function Search({ label, value, onInput }) {
  const [text, setText] = useState(value);
  const timer = useRef(0);
  useEffect(() => { setText(value); }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const typed = (event) => {
    const found = event.target.value;
    setText(found);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => onInput(found), 200);
  };
  return html`<label class="search">${label}<input type="search" value=${text} onInput=${typed} autocomplete="off" spellcheck=${false} /></label>`;
}

// Whether a text has all words of a search. Six digits or more may also be the first of an identity.
const wordsOf = (search) => search.toLowerCase().split(/\s+/).filter(Boolean);
const hasWords = (text, key, words) => words.every((word) => text.includes(word) || (word.length >= 6 && key.startsWith(word.slice(0, key.length))));
