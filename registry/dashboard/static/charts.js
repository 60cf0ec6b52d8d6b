// Draws each panel's rows with uPlot; the rows stand in the page as JSON, and as a table for those who do not see charts.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colours = () => Array.from({ length: 9 }, (_, at) => css(`--c${at}`));
const charts = new Map();

const read = {
  seconds: (v) => (v >= 3600 ? `${(v / 3600).toFixed(1)} h` : v >= 120 ? `${(v / 60).toFixed(0)} min` : `${v < 10 ? v.toFixed(1) : v.toFixed(0)} s`),
  share: (v) => `${(100 * v).toFixed(0)} %`,
  money: (v) => v.toLocaleString("en", { maximumFractionDigits: v < 10 ? 2 : 0 }),
  number: (v) => v.toLocaleString("en", { maximumFractionDigits: 1 }),
  count: (v) => v.toLocaleString("en", { notation: v >= 10000 ? "compact" : "standard", maximumFractionDigits: 1 }),
};
const show = (kind) => (value) => (value == null ? "–" : (read[kind] ?? read.count)(value));

const stacked = (columns) => {
  const [x, ...series] = columns;
  const sums = new Array(x.length).fill(0);
  const piled = series.map((values) => values.map((value, at) => (sums[at] += value ?? 0)));
  return [x, ...piled];
};

const isTime = (column) => ["day", "time"].includes(column.kind);

const columnsOf = ({ columns, rows }) => columns.map((column, at) =>
  rows.map((row) => (at === 0 && isTime(column) ? Date.parse(row[at]) / 1000 : row[at])));

const axis = (extra) => ({ stroke: css("--faint"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px Inter, sans-serif", ...extra });

const paths = (kind) => (kind === "ranks" ? uPlot.paths.spline() : kind === "survival" ? undefined : undefined);

const series = (spec, column, at, palette) => {
  const colour = palette[(at - 1) % palette.length];
  const isEdge = spec.chart.band?.includes(column.name);
  return {
    label: column.name,
    stroke: isEdge ? "transparent" : colour,
    width: spec.chart.kind === "ranks" ? 2.5 : 2,
    dash: spec.chart.dashed?.includes(column.name) ? [6, 4] : undefined,
    fill: spec.chart.kind === "stack" ? `color-mix(in srgb, ${colour} 55%, ${css("--card")})` : undefined,
    points: { show: spec.chart.kind === "ranks" || spec.rows.length < 3, size: 7, fill: css("--card") },
    paths: paths(spec.chart.kind),
    spanGaps: false,
    value: (chart, value, index, row) => {
      if (row == null) return "–";
      return show(column.kind)(spec.rows[row][index]);
    },
  };
};

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
    padding: [12, 12, 0, 0],
    tzDate: (stamp) => uPlot.tzDate(new Date(stamp * 1000), "UTC"),
    cursor: { focus: { prox: 24 }, points: { size: 8 } },
    focus: { alpha: 0.25 },
    legend: { live: true },
    scales: {
      x: { time: isTime(spec.columns[0]) },
      y: isRank ? { dir: -1, range: [0.5, highest + 0.5] } : { range: (chart, low, high) => [0, high > 0 ? high * 1.06 : 1] },
    },
    axes: [
      axis({ grid: { show: false } }),
      axis({ size: 62, values: (chart, splits) => splits.map((value) => (isRank ? (Number.isInteger(value) && value > 0 ? value : "") : show(kind)(value))), incrs: isRank ? [1, 2, 5] : undefined }),
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
  charts.get(place)?.destroy();
  const data = columnsOf(spec);
  charts.set(place, new uPlot(options(spec, place.clientWidth), spec.chart.kind === "stack" ? stacked(data) : data, place));
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
  events.addEventListener("message", (event) => { live.innerHTML = event.data; });
  addEventListener("pagehide", () => events.close());
}
document.documentElement.dataset.drawn = "yes";
