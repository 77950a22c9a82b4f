// Lineage around one adapter or merge, laid out by dagre. Every node leads to its own page.
const NEAR = 8; // neighbours of a node that are drawn
const FAR = 4; // of a node further away
const DEPTH = 3;
const NODES = 48;
const BOX = { width: 196, height: 48 };

class Drawn {
  constructor() {
    this.nodes = new Map();
    this.edges = new Map();
  }

  add(id, node) {
    if (!this.nodes.has(id)) this.nodes.set(id, { ...BOX, ...node });
    return id;
  }

  link(from, to, kind = "") {
    this.edges.set(`${from} ${to}`, { from, to, kind });
  }

  get isFull() { return this.nodes.size >= NODES; }

  adapter([key, name]) { return this.add(`adapter/${key}`, { name, kind: "adapter", href: addressOf(`adapter/${key}`) }); }

  merge([key, name, version]) {
    const known = name !== null;
    return this.add(`merge/${key}`, { name: known ? name : key.slice(0, 12), kind: known ? `merge, version ${version}` : "merge, not in this catalog", href: known ? addressOf(`merge/${key}`) : null });
  }

  more(id, n, noun) { return this.add(`more ${noun} ${id}`, { name: `${number(n)} more`, kind: `${noun}s, see the table`, href: null }); }
}

// The merges that hold a node's output, and those that hold theirs.
async function forward(drawn, from, merges, depth) {
  const most = depth === DEPTH ? NEAR : FAR;
  for (const merge of merges.slice(0, most)) {
    const known = drawn.nodes.has(`merge/${merge[0]}`);
    if (drawn.isFull && !known) return;
    drawn.link(from, drawn.merge(merge));
    if (depth > 1 && !known) {
      const detail = await loadDetail("merge", merge[0]);
      if (detail) await forward(drawn, `merge/${merge[0]}`, detail.into, depth - 1);
    }
  }
  if (merges.length > most) drawn.link(from, drawn.more(from, merges.length - most, "merge"));
}

// What a merge is made of: adapters, and the merges whose outputs some of these are.
async function backward(drawn, detail, depth) {
  const own = `merge/${detail.key}`;
  const most = depth === DEPTH ? NEAR : FAR;
  if (detail.parent) drawn.link(drawn.merge(detail.parent), own, "update");
  for (const row of detail.adapters.slice(0, most)) {
    if (drawn.isFull) return;
    const maker = row[5];
    if (!maker) {
      drawn.link(drawn.adapter(row), own);
      continue;
    }
    const known = drawn.nodes.has(`merge/${maker[0]}`);
    drawn.link(drawn.merge(maker), own);
    const further = depth > 1 && !known && maker[1] !== null && (await loadDetail("merge", maker[0]));
    if (further) await backward(drawn, further, depth - 1);
  }
  if (detail.adapters.length > most) drawn.link(drawn.more(own, detail.adapters.length - most, "adapter"), own);
}

async function lineageOf(kind, key) {
  const drawn = new Drawn();
  const detail = await loadDetail(kind, key);
  if (kind === "adapter") {
    const own = drawn.adapter([detail.key, detail.name]);
    await forward(drawn, own, detail.merges, DEPTH);
    for (const made of detail.made.slice(0, FAR)) {
      drawn.link(drawn.merge(made), own);
      const maker = made[1] !== null && (await loadDetail("merge", made[0]));
      if (maker) await backward(drawn, maker, DEPTH - 1);
    }
  } else {
    const own = drawn.merge([detail.key, detail.name, detail.version]);
    await backward(drawn, detail, DEPTH);
    await forward(drawn, own, detail.into, DEPTH);
    for (const update of detail.updates.slice(0, FAR)) drawn.link(own, drawn.merge(update), "update");
  }
  return placed(drawn, `${kind}/${key}`);
}

function placed(drawn, center) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "LR", nodesep: 12, ranksep: 52, marginx: 4, marginy: 4 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const [id, node] of drawn.nodes) graph.setNode(id, { ...node, isCenter: id === center });
  for (const { from, to, kind } of drawn.edges.values()) graph.setEdge(from, to, { kind });
  dagre.layout(graph);
  return {
    ...graph.graph(),
    nodes: graph.nodes().map((id) => graph.node(id)),
    edges: graph.edges().map((edge) => graph.edge(edge)),
  };
}

const cutTo = (text, n) => ([...text].length > n ? `${[...text].slice(0, n - 1).join("")}…` : text);

function Node({ of: node }) {
  const [left, top] = [node.x - node.width / 2, node.y - node.height / 2];
  const box = html`<g class=${`node ${node.kind.startsWith("merge") ? "merge" : "adapter"} ${node.isCenter ? "center" : ""}`}>
    <title>${node.name} (${node.kind})</title>
    <rect x=${left} y=${top} width=${node.width} height=${node.height} rx=${node.kind.startsWith("merge") ? 3 : 16} />
    <text x=${left + 14} y=${top + 20}>${cutTo(node.name, 24)}</text>
    <text class="kind" x=${left + 14} y=${top + 37}>${node.isCenter ? `this ${node.kind}` : node.kind}</text>
  </g>`;
  if (node.isCenter || !node.href) return box;
  return html`<a href=${node.href} aria-label=${`${node.name}, ${node.kind}`}>${box}</a>`;
}

const pathOf = (points) => points.map(({ x, y }, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(" ");

function Lineage({ kind, id }) {
  const { value, error, done } = useAwaited(() => lineageOf(kind, id), `${kind}/${id}`);
  if (!done) return html`<${Waiting} />`;
  if (error) return html`<${Failed} error=${error} />`;
  if (value.nodes.length === 1) return html`<${Missing}>Nothing was made from it, and it was made from nothing that is recorded here.<//>`;
  return html`<figure class="graph">
    <div class="scroll" role="region" tabindex="0" aria-label="Lineage, as a graph of links">
      <svg viewBox=${`0 0 ${value.width} ${value.height}`} width=${value.width} height=${value.height}>
        <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" /></marker></defs>
        ${value.edges.map((edge) => html`<path class=${`edge ${edge.kind}`} d=${pathOf(edge.points)} marker-end="url(#tip)" />`)}
        ${value.nodes.map((node) => html`<${Node} of=${node} />`)}
      </svg>
    </div>
    <figcaption>What it is made of is on the left, what was made from it on the right. Follow a name to its own page. A dashed line leads from a version to the one that updates it.</figcaption>
  </figure>`;
}
