// Draws each panel's rows with uPlot; the rows stand in the page as JSON, and as a table for those who do not see charts.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colours = () => Array.from({ length: 9 }, (_, at) => css(`--c${at}`));
const charts = new Map();

const trimmed = (v) => String(Number(v.toFixed(v < 1 ? 2 : 1)));
const SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000];
const DAY = 86400, NONE = [null, null, null, null, null];
const DATES = [
  [365 * DAY, "{YYYY}", null, ...NONE, 1],
  [28 * DAY, "{MMM}", "\n{YYYY}", ...NONE, 1],
  [DAY, "{D} {MMM}", "\n{YYYY}", ...NONE, 1],
];

const read = {
  seconds: (v) => (v >= 3600 ? `${trimmed(v / 3600)} h` : v >= 120 ? `${trimmed(v / 60)} min` : `${v < 10 ? trimmed(v) : v.toFixed(0)} s`),
  share: (v) => `${(100 * v).toFixed(v !== 0 && Math.abs(v) < 0.1 ? 1 : 0)} %`,
  money: (v) => v.toLocaleString("en", { maximumFractionDigits: v < 10 ? 2 : 0 }),
  number: (v) => v.toLocaleString("en", Math.abs(v) < 1 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 1 }),
  count: (v) => v.toLocaleString("en", { notation: v >= 10000 ? "compact" : "standard", maximumFractionDigits: 1 }),
};
read.percent = read.share;
const show = (kind) => (value) => (value == null ? "–" : (read[kind] ?? read.count)(value));

const stacked = (columns) => {
  const [x, ...series] = columns;
  const sums = new Array(x.length).fill(0);
  const empty = x.map((_, at) => series.every((values) => values[at] == null)); // a gap, not a zero
  const piled = series.map((values) => values.map((value, at) => (empty[at] ? null : (sums[at] += value ?? 0))));
  return [x, ...piled];
};

const isTime = (column) => ["day", "time"].includes(column.kind);

// A day that is not over would look like a fall; the table has it. A week that ends with it hardly does.
const today = new Date().toISOString().slice(0, 10);
const drawn = ({ columns, rows }) => (columns[0].name === "day" && rows.length > 2 && rows.at(-1)[0] === today ? rows.slice(0, -1) : rows);

const columnsOf = ({ columns, rows }) => columns.map((column, at) =>
  rows.map((row) => (at === 0 && isTime(column) ? Date.parse(row[at]) / 1000 : row[at])));

// As uPlot has them from a day on: figures are sums of days, and hours between two of them say nothing.
const STEPS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 30, 60, 90, 120, 180, 365, 730].map((days) => days * DAY);
const axis = (extra) => ({ stroke: css("--faint"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px Inter, sans-serif", ...extra });

const DASHES = [undefined, [9, 4], [2, 4]]; // a colour that comes again is told apart by its line

// Names at the right end of a rank chart, where there is room: a legend of twenty colours is read by nobody.
const LABELS = 230;
const named = (chart) => {
  const { ctx } = chart, ratio = devicePixelRatio, last = chart.data[0].length - 1;
  ctx.save();
  ctx.font = `${12 * ratio}px Inter, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  for (let at = 1; at < chart.series.length; at++) {
    const value = chart.data[at][last];
    if (value == null || !chart.series[at].show) continue;
    ctx.fillStyle = chart.series[at]._stroke ?? css("--ink");
    const name = chart.series[at].label;
    const text = name.length > 34 ? `…${name.slice(-33)}` : name;
    ctx.fillText(text, chart.valToPos(chart.data[0][last], "x", true) + 10 * ratio, chart.valToPos(value, "y", true));
  }
  ctx.restore();
};

const series = (spec, column, at, palette) => {
  const colour = palette[(at - 1) % palette.length];
  const isEdge = spec.chart.band?.includes(column.name);
  return {
    label: column.name,
    stroke: isEdge ? "transparent" : colour,
    width: spec.chart.kind === "ranks" ? 2.5 : spec.rows.length > 120 ? 1.25 : 2,
    dash: spec.chart.dashed?.includes(column.name) ? [6, 4] : DASHES[Math.floor((at - 1) / palette.length)],
    fill: spec.chart.kind === "stack" ? `color-mix(in srgb, ${colour} 55%, ${css("--card")})` : undefined,
    points: { show: spec.chart.kind === "ranks" || spec.rows.length < 3, size: 7, fill: css("--card") },
    paths: spec.chart.kind === "ranks" ? uPlot.paths.spline() : undefined,
    spanGaps: false,
    value: (chart, value, index, row) => {
      if (row == null) return "–";
      return show(column.kind)(spec.rows[row][index]);
    },
  };
};

// One day alone stands in the middle of its neighbours; by itself uPlot would draw the years after it.
const around = (step) => (chart, low, high) => (chart.data[0].length === 1 ? [chart.data[0][0] - step, chart.data[0][0] + step] : [low, high]);

const options = (spec, width) => {
  const palette = colours();
  const names = spec.columns.map((column) => column.name);
  const kind = spec.columns.at(-1).kind;
  const day = { label: names[0], value: isTime(spec.columns[0]) ? "{YYYY}-{MM}-{DD}" : (chart, value) => value ?? "–" };
  const isRank = spec.chart.kind === "ranks";
  const highest = spec.columns.length > 1 ? Math.max(1, ...spec.rows.flatMap((row) => row.slice(1).map((value) => value ?? 0))) : 1;
  const made = {
    width,
    height: isRank ? 380 : 268,
    padding: [12, isRank && width > 800 ? LABELS : 28, 0, 0],
    hooks: isRank && width > 800 ? { draw: [named] } : {},
    tzDate: (stamp) => uPlot.tzDate(new Date(stamp * 1000), "UTC"),
    cursor: { focus: { prox: 24 }, points: { size: 8 } },
    focus: { alpha: 0.25 },
    legend: { live: true },
    scales: {
      x: { time: isTime(spec.columns[0]), range: around(isTime(spec.columns[0]) ? DAY : 1) },
      y: isRank ? { dir: -1, range: [0.5, highest + 0.5] } : { range: (chart, low, high) => [0, high > 0 ? high * 1.06 : 1] },
    },
    axes: [
      axis({ grid: { show: false }, gap: 9, ...(isTime(spec.columns[0]) ? { values: DATES, incrs: STEPS } : { label: names[0], labelFont: "12px Inter, sans-serif", labelSize: 22, size: 32 }) }),
      axis({ size: 62, values: (chart, splits) => splits.map((value) => (isRank ? (Number.isInteger(value) && value > 0 ? value : "") : show(kind)(value))), incrs: isRank ? [1, 2, 5] : kind === "seconds" ? SECONDS : undefined }),
    ],
    series: [day, ...spec.columns.slice(1).map((column, at) => series(spec, column, at + 1, palette))],
  };
  if (spec.chart.band) {
    const [low, high] = spec.chart.band.map((name) => names.indexOf(name));
    made.bands = [{ series: [high, low], fill: `color-mix(in srgb, ${palette[2]} 22%, transparent)` }];
  }
  if (spec.chart.kind === "stack") {
    made.bands = spec.columns.slice(2).map((_, at) => ({ series: [at + 2, at + 1] }));
  }
  return made;
};

const draw = (place) => {
  const spec = JSON.parse(document.getElementById(`data-${place.dataset.chart}`).textContent);
  spec.rows = drawn(spec);
  charts.get(place)?.destroy();
  const data = columnsOf(spec);
  const chart = new uPlot(options(spec, place.clientWidth), spec.chart.kind === "stack" ? stacked(data) : data, place);
  charts.set(place, chart);
  const rows = chart.root.querySelectorAll(".u-legend .u-series");
  spec.columns.forEach((column, at) => { if (spec.chart.band?.includes(column.name)) rows[at].hidden = true; });
};

const drawAll = () => {
  for (const place of document.querySelectorAll("[data-chart]")) draw(place);
};

const resize = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const chart = charts.get(target);
    if (chart && Math.abs(chart.width - contentRect.width) > 2) chart.setSize({ width: contentRect.width, height: chart.height });
  }
});

drawAll();
for (const place of document.querySelectorAll("[data-chart]")) resize.observe(place);
addEventListener("themechange", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

const live = document.querySelector("[data-events]");
if (live) {
  const events = new EventSource(live.dataset.events);
  events.addEventListener("message", (event) => { if (event.data) live.innerHTML = event.data; });
  // A session that ended is refused when the stream is opened again; then the page asks who is there.
  let opened = false;
  events.addEventListener("open", () => { opened = true; });
  events.addEventListener("error", () => { if (opened && events.readyState === EventSource.CLOSED) location.reload(); });
  addEventListener("pagehide", () => events.close());
}
document.documentElement.dataset.drawn = "yes";
