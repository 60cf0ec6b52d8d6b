// Runs the model: sends the input, follows its events, shows the pictures. Everything it needs is same-origin.
import * as code from "./code.js";
import * as fields from "./fields.js";

const form = document.getElementById("playground");
const at = (id) => document.getElementById(id);
const headers = { "content-type": "application/json", "x-marquee-token": document.body.dataset.token };
let following = null;
let current = null; // what runs, once the gateway has said its name
let isUnwanted = false; // cancelled before that
let startedAt = 0;

const problem = (text) => {
  at("problem").textContent = text ?? "";
  at("problem").hidden = !text;
};

const busy = (isBusy) => {
  at("screen").setAttribute("aria-busy", String(isBusy));
  at("screen").dataset.state = isBusy ? "busy" : at("screen").dataset.state;
  at("run").disabled = isBusy;
  at("cancel").hidden = !isBusy;
  at("share").hidden = !isBusy;
};

const seconds = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(1)) + " s";

const download = (file) => {
  const link = document.createElement("a");
  link.href = file.url;
  link.className = "button quiet";
  link.textContent = `Download ${file.content_type}`;
  return link;
};

const whole = (answer) => {
  const text = document.createElement("pre");
  text.className = "answer";
  text.textContent = JSON.stringify(answer, null, 2);
  return text;
};

const figure = (picture, prompt) => {
  const tag = { image: "img", audio: "audio", video: "video" }[picture.content_type.split("/")[0]];
  if (!tag) return download(picture);
  const element = document.createElement(tag);
  element.src = picture.url;
  if (picture.width) [element.width, element.height] = [picture.width, picture.height];
  if (tag !== "img") { // has controls of its own: inside a link each click on them would lead away
    element.controls = true;
    const both = document.createElement("div");
    both.className = "played";
    both.append(element, download(picture));
    return both;
  }
  element.alt = prompt ? `Picture of: ${prompt}` : "The picture";
  const link = document.createElement("a");
  link.href = picture.url;
  link.target = "_blank";
  link.rel = "noopener";
  link.append(element);
  return link;
};

const remember = (pictures, prompt) => {
  for (const picture of pictures.filter((one) => one.content_type.startsWith("image/"))) {
    const item = document.createElement("div");
    item.setAttribute("role", "listitem");
    item.append(figure(picture, prompt));
    item.title = prompt ?? "";
    at("history").prepend(item);
  }
  at("history").hidden = at("history").children.length < 2;
  while (at("history").children.length > 12) at("history").lastChild.remove();
};

const glimpse = (address) => {
  const shown = at("pictures").querySelector("img.glimpse") ?? document.createElement("img");
  shown.className = "glimpse";
  shown.alt = "What the run seems to become";
  shown.src = address;
  if (!shown.isConnected) at("pictures").replaceChildren(shown);
};

const finish = (view, prompt) => {
  at("screen").dataset.state = view.state;
  busy(false);
  const shown = (view.pictures ?? []).map((picture) => figure(picture, prompt));
  if (!shown.length && view.answer) shown.push(whole(view.answer));
  at("pictures").replaceChildren(...shown);
  remember(view.pictures ?? [], prompt);
  const flagged = view.result?.flagged ? " The safety check marked this picture." : "";
  at("status").textContent = view.state === "succeeded" ? `Done.${flagged}` : view.state === "cancelled" ? "Cancelled." : "It failed.";
  problem(view.state === "failed" ? view.line : null);
  at("timings").hidden = view.state !== "succeeded";
  at("t-seed").textContent = view.result?.seed ?? "–";
  for (const name of ["wait", "load", "run"]) at(`t-${name}`).textContent = seconds(view.timings?.[name] ?? 0);
  at("t-cost").textContent = view.cost ?? "nothing";
  at("t-all").textContent = seconds((performance.now() - startedAt) / 1000);
};

const follow = (accepted, prompt) => {
  following?.close();
  following = new EventSource(accepted.events);
  following.addEventListener("message", (event) => {
    const view = JSON.parse(event.data);
    if (["succeeded", "failed", "cancelled"].includes(view.state)) {
      following.close();
      finish(view, prompt);
      return;
    }
    at("status").textContent = `${view.line}…`;
    if (view.preview) glimpse(view.preview);
    if (view.share == null) at("share").removeAttribute("value");
    else at("share").value = view.share;
  });
  const source = following;
  source.addEventListener("error", () => { // a connection that only broke is made again by the browser
    if (source.readyState !== EventSource.CLOSED || source !== following) return;
    busy(false);
    at("status").textContent = "This run cannot be followed any more.";
    problem("The gateway does not tell what became of this run. You may have been signed out: load the page again.");
  });
};

const cancel = () => {
  if (!current) { isUnwanted = true; return; }
  fetch(`/page/requests/${current.id}/cancel`, { method: "POST", headers })
    .then(async (answer) => { if (!answer.ok) problem(await reason(answer)); })
    .catch(() => problem("The gateway cannot be reached."));
};

const reason = async (answer) => {
  const body = await answer.json().catch(() => ({}));
  const details = Array.isArray(body.detail) ? body.detail.map((one) => `${(one.loc ?? []).slice(1).join(" ")} ${one.msg}`).join("; ") : body.detail;
  return (details || body.title || `The gateway answered ${answer.status}`).trim();
};

const run = async () => {
  const missing = fields.firstMissing(form);
  if (missing) {
    missing.field.closest("details")?.setAttribute("open", "");
    missing.control.reportValidity();
    missing.control.focus();
    return;
  }
  const input = fields.input(form);
  [current, isUnwanted] = [null, false];
  problem(null);
  busy(true);
  at("timings").hidden = true;
  at("share").removeAttribute("value");
  at("status").textContent = "Sending…";
  startedAt = performance.now();
  if (matchMedia("(max-width: 860px)").matches) at("screen").scrollIntoView({ block: "center", behavior: "smooth" });
  const answer = await fetch(`/page/runs/${form.dataset.slug}`, { method: "POST", headers, body: JSON.stringify(input) });
  if (!answer.ok) {
    at("screen").dataset.state = "failed";
    busy(false);
    at("status").textContent = "It was not accepted.";
    problem(await reason(answer));
    return;
  }
  current = await answer.json();
  follow(current, input.prompt);
  if (isUnwanted) cancel();
};

const attempt = () => run().catch((error) => {
  busy(false);
  at("status").textContent = "It was not sent.";
  problem(error instanceof fields.FieldError ? error.message : "The gateway cannot be reached.");
});

const echo = () => {
  try {
    code.show(fields.input(form));
  } catch (error) {
    if (!(error instanceof fields.FieldError)) throw error;
  }
};

fields.wire(form);
code.wire();
echo();
form.addEventListener("input", echo);
form.addEventListener("change", echo);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("run") && !at("run").disabled) attempt();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
at("cancel")?.addEventListener("click", cancel);
if (at("run")) at("run").disabled = false; // some browsers keep it as it was before a reload
