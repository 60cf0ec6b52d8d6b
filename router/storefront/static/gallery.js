// Narrows the gallery while the visitor types. Without it the form still searches.
const input = document.getElementById("q");
const form = input.form;
let timer = 0;
let running = null;

const refresh = async () => {
  const address = new URL(form.action);
  for (const [name, value] of new FormData(form)) if (value) address.searchParams.set(name, value);
  running?.abort();
  running = new AbortController();
  try {
    const answer = await fetch(address, { signal: running.signal });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.getElementById("results");
    if (!found) return; // somebody else answered: a proxy's page to sign in
    document.getElementById("results").replaceWith(found);
    history.replaceState(null, "", address);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
};

input.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(refresh, 180);
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    input.focus();
  }
});
