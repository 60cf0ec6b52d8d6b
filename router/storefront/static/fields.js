// The form's controls as the call's input: what differs from the defaults, in the types that the schema wants.

const number = (text) => (text.trim() === "" ? undefined : Number(text));

const size = (field) => {
  const chosen = field.querySelector("select").value;
  if (chosen !== "custom") return chosen ? JSON.parse(chosen) : undefined;
  const side = (name) => number(field.querySelector(`[data-side="${name}"]`).value);
  return { width: side("width"), height: side("height") };
};

const loras = (field) => {
  const found = [];
  for (const row of field.querySelectorAll(".lora")) {
    const scale = Number(row.querySelector("input[type=range]").value);
    const path = "own" in row.dataset
      ? row.querySelector("input[type=text]").value.trim()
      : row.querySelector("input[type=checkbox]").checked && row.dataset.path;
    if (path) found.push({ path, scale });
  }
  return found.length ? found : undefined;
};

const json = (field, text) => {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw new FieldError(field, "is not valid JSON");
  }
};

const initial = new Map(); // what the schema's defaults say: not worth sending

export class FieldError extends Error {
  constructor(field, reason) {
    super(`${field.querySelector("label")?.firstChild.textContent.trim() ?? field.dataset.name} ${reason}`);
    this.field = field;
  }
}

const read = (field) => {
  const control = field.querySelector("textarea, select, input:not([data-slider])");
  switch (field.dataset.kind) {
    case "size": return size(field);
    case "loras": return loras(field);
    case "toggle": return control.checked;
    case "choice": return control.value ? JSON.parse(control.value) : undefined;
    case "integer": case "number": case "seed": return number(control.value);
    case "lines": return control.value.trim() ? control.value.split("\n").filter((line) => line.trim()) : undefined;
    case "json": return json(field, control.value);
    default: return control.value === "" ? undefined : control.value;
  }
};

export const input = (form) => {
  const values = {};
  for (const field of form.querySelectorAll(".field")) {
    const value = read(field);
    const isNews = "required" in field.dataset || JSON.stringify(value) !== initial.get(field);
    if (value !== undefined && isNews) values[field.dataset.name] = value;
  }
  return values;
};

export const firstMissing = (form) => {
  for (const field of form.querySelectorAll(".field")) {
    const control = field.querySelector("textarea, select, input:not([data-slider]):not([type=range]):not([type=checkbox])");
    if (control && !control.closest("[hidden]") && !control.checkValidity()) return { field, control };
  }
  return null;
};

// Now, at each event, and when the browser brings back what stood here before (Back, a reload).
const follows = (control, event, show) => {
  control.addEventListener(event, show);
  addEventListener("pageshow", show);
  show();
};

const mirror = (from, to) => from.addEventListener("input", () => { to.value = from.value; });

export const wire = (form) => {
  // Not what the controls hold now: somebody may have typed, or a browser restored, before this script ran.
  const untouched = form.cloneNode(true);
  untouched.reset();
  const defaults = untouched.querySelectorAll(".field");
  form.querySelectorAll(".field").forEach((field, at) => initial.set(field, JSON.stringify(read(defaults[at]))));
  for (const slider of form.querySelectorAll("[data-slider]")) {
    const exact = slider.parentElement.querySelector("input[type=number]");
    mirror(slider, exact);
    mirror(exact, slider);
    follows(exact, "change", () => { if (exact.value) slider.value = exact.value; });
  }
  for (const row of form.querySelectorAll(".lora")) {
    const scale = row.querySelector("input[type=range]");
    const taken = row.querySelector("input[type=checkbox]");
    follows(scale, "input", () => { row.querySelector("output").value = Number(scale.value).toFixed(2); });
    if (taken) follows(taken, "change", () => { scale.disabled = !taken.checked; });
  }
  for (const select of form.querySelectorAll("[data-kind=size] select")) {
    const custom = select.parentElement.querySelector("[data-custom]");
    follows(select, "change", () => { custom.hidden = select.value !== "custom"; });
  }
  for (const dice of form.querySelectorAll("[data-dice]")) {
    dice.addEventListener("click", () => {
      const seed = dice.parentElement.querySelector("input");
      seed.value = crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
      seed.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }
};
