// The snippets below the playground: filled with the form's input, tabs by keyboard, copy buttons.

const python = (value, indent) => {
  const inner = `${indent}    `;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((item) => python(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item, inner)}`);
  if (!items.length) return open + close;
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
};

const fill = (code, input) => code.dataset.hole === "json"
  ? code.dataset.template.replace("«json»", () => JSON.stringify(input).replaceAll("'", "'\\''"))
  : code.dataset.template.replace("«python»", () => python(input, "    "));

export const show = (input) => {
  for (const code of document.querySelectorAll("code[data-template]")) code.textContent = fill(code, input);
};

const select = (tabs, chosen) => {
  for (const tab of tabs) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
  chosen.focus();
};

// Browsers give the clipboard to https and localhost only; a gateway in a company's network is often neither.
const copy = async (element) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  getSelection().selectAllChildren(element);
  document.execCommand("copy");
};

export const wire = () => {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const [at, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tabs, tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) select(tabs, tabs[(at + step + tabs.length) % tabs.length]);
    });
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      await copy(document.querySelector(button.dataset.copy));
      button.classList.add("copied");
      const label = button.textContent.trim() && button.textContent;
      if (label) button.textContent = "Copied";
      setTimeout(() => { button.classList.remove("copied"); if (label) button.textContent = label; }, 1400);
    });
  }
};
