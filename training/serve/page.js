"use strict";
const settings = JSON.parse(document.getElementById("settings").textContent);
const $ = (id) => document.getElementById(id);
let messages = [], running = null;

$("model").textContent = settings.model + (settings.chat ? "" : " (continues texts: it has no chat template)");
document.title = settings.model;
$("keyline").hidden = !settings.key;
$("systemline").hidden = !settings.chat;
$("key").value = sessionStorage.getItem("key") || "";
$("temperature").oninput = () => { $("shown").value = Number($("temperature").value).toFixed(2); };

function theme(value) {
  document.documentElement.dataset.theme = value;
  localStorage.setItem("theme", value);
}
if (localStorage.getItem("theme")) theme(localStorage.getItem("theme"));
$("theme").onclick = () => {
  const dark = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  theme(dark === "dark" ? "light" : "dark");
};

function turn(role, text) {
  const box = document.createElement("div");
  box.className = "turn " + role;
  box.append(document.createTextNode(text)); // a text node: whatever a model writes stays text
  $("talk").append(box);
  $("talk").scrollTop = $("talk").scrollHeight;
  return box;
}

function note(box, text, wrong) {
  const line = document.createElement("div");
  line.className = "note" + (wrong ? " wrong" : "");
  line.textContent = text;
  box.append(line);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    let at;
    while ((at = held.indexOf("\n\n")) >= 0) {
      const line = held.slice(0, at);
      held = held.slice(at + 2);
      if (line.startsWith("data: ")) yield line.slice(6);
    }
  }
}

function body(text) {
  const common = { model: settings.model, stream: true, temperature: Number($("temperature").value), max_tokens: Math.max(1, Math.trunc(Number($("tokens").value)) || 1) };
  if (!settings.chat) return { ...common, prompt: text };
  const system = $("system").value.trim();
  return { ...common, messages: [...(system ? [{ role: "system", content: system }] : []), ...messages] };
}

async function ask(text) {
  turn("user", text);
  messages.push({ role: "user", content: text });
  const box = turn("assistant", "");
  const shown = box.firstChild;
  box.classList.add("busy");
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  let whole = "", tokens = 0;
  const started = performance.now();
  try {
    const headers = { "content-type": "application/json" };
    if (settings.key) {
      headers.authorization = "Bearer " + $("key").value;
      sessionStorage.setItem("key", $("key").value);
    }
    const path = settings.chat ? "v1/chat/completions" : "v1/completions";
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body(text)), signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    let ended = false;
    for await (const data of events(response)) {
      if (data === "[DONE]") { ended = true; break; }
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      for (const choice of piece.choices) {
        const more = settings.chat ? choice.delta.content || "" : choice.text;
        if (more) { tokens += 1; whole += more; }
        if (choice.finish_reason === "length") note(box, "Cut: the limit of new tokens, or the end of the context.");
      }
      const low = $("talk").scrollHeight - $("talk").scrollTop - $("talk").clientHeight < 40;
      shown.data = whole;
      if (low) $("talk").scrollTop = $("talk").scrollHeight;
    }
    if (!ended) throw new Error("the connection ended early");
    note(box, tokens + " pieces in " + ((performance.now() - started) / 1000).toFixed(1) + " s");
  } catch (error) {
    if (error.name === "AbortError") note(box, "Stopped.");
    else note(box, String(error.message || error), true);
  }
  if (whole) messages.push({ role: "assistant", content: whole });
  else messages.pop(); // the next turn does not follow on one without an answer
  box.classList.remove("busy");
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  $("text").focus();
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || running) return;
  $("text").value = "";
  ask(text);
};
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
};
$("stop").onclick = () => { if (running) running.abort(); };
$("new").onclick = () => {
  if (running) running.abort();
  messages = [];
  $("talk").replaceChildren();
};
$("text").focus();
