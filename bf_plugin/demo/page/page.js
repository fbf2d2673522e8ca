// The demo's chat page: joins the shipped handler to the screen.
import "./browser/handler.js";
import { ACCENTS, restoreLook, setAccent, setTheme, throwConfetti, toggleTheme } from "./effects.js";
import { Conversation, announce, showConnection, showMode, showPrompts, toolLabel } from "./view.js";

const PROMPTS = [
  ["What’s the weather like in San Francisco?", "A tool that runs on the server"],
  ["Make this page teal", "A tool that runs in this page"],
  ["Tell me a long story", "Watch it stream, stop it half-way"],
  ["Start to answer, then fail", "An error, shown as one"],
];
const tool = (name, description, properties = {}) => ({
  type: "function",
  function: {
    name,
    description,
    parameters: { type: "object", properties, required: Object.keys(properties), additionalProperties: false },
  },
});
const TOOLS = [
  tool("getCurrentWeather", "Get the current weather in a given location", {
    location: { type: "string", description: "The city and state, e.g. San Francisco, CA" },
  }),
  tool("ui_setColour", "Change the accent colour of the page the user looks at", {
    colour: { type: "string", enum: ACCENTS },
  }),
  tool("ui_setTheme", "Make the page the user looks at light or dark", {
    mode: { type: "string", enum: ["light", "dark"] },
  }),
  tool("ui_confetti", "Let confetti fall in the page, to celebrate"),
];
const input = document.getElementById("input");
const send = document.getElementById("send");
const conversation = new Conversation();

restoreLook();
const config = await (await fetch("config.json")).json();
document.getElementById("about").textContent = config.about;

/** All this tab remembers over a reload. */
const saved = JSON.parse(sessionStorage.getItem("chat") ?? "{}");
const chat = { channel: crypto.randomUUID(), messages: [], run: null, ...saved };
let saving = 0;
let opened = 0;

const assistant = new BFAssistant.Assistant({
  apiKey: config.apiKey,
  channels: [chat.channel],
  actionName: "handleAssistantResponse",
  payload: { model: config.model, instructions: config.instructions, tools: TOOLS },
  storage: sessionStorage,
  tools: {
    setColour: ({ colour }) => {
      setAccent(colour);
      return `The page is ${colour} now.`;
    },
    setTheme: ({ mode }) => {
      setTheme(mode);
      return `The page is ${mode} now.`;
    },
    confetti: () => {
      throwConfetti();
      return "Confetti is falling.";
    },
  },
  onThread: (_, run) => update(run, () => {}),
  onText: (text, run) => update(run, (message) => Object.assign(message, { text, tools: settled(message) })),
  onTool: (functions, run) => update(run, (message) => addTools(message, functions)),
  onError: ({ message: text, code }, run) => update(run, (message) => fail(message, text, code)),
  onEnd: ({ finishReason }, run) => update(run, (message) => finish(message, finishReason)),
});

function save() {
  cancelAnimationFrame(saving);
  saving = 0;
  chat.run = assistant.run && !assistant.run.ended ? assistant.run.snapshot() : null;
  sessionStorage.setItem("chat", JSON.stringify(chat));
}

/** The message that shows a run: the last answer, which learns its run's id from the first event. */
function answerOf(run) {
  const known = chat.messages.find((message) => message.runId === run?.runId);
  if (known) return known;
  const last = chat.messages.at(-1);
  // A page that was reloaded while its start was under way has given the answer up; here it comes after all.
  const open = last?.role === "assistant" && !last.runId && (last.running || last.ending === "unknown");
  if (!open) return null;
  if (run) Object.assign(last, { runId: run.runId, running: !run.ended, ending: null });
  return last;
}

function update(run, change) {
  const message = answerOf(run);
  if (!message) return;
  // An answer that was given up may come after all.
  if (run && !run.ended && !message.running) Object.assign(message, { running: true, ending: null });
  change(message);
  redraw(message);
}

function redraw(message) {
  conversation.draw(message, message.error ? recoveries(message) : []);
  showMode({ empty: chat.messages.length === 0, busy: assistant.busy || chat.messages.at(-1)?.running });
  saving ||= requestAnimationFrame(save);
}

const settled = (message) => message.tools.map((used) => ({ ...used, done: true }));

function addTools(message, functions) {
  const called = functions.map((used) => ({ label: toolLabel(used), at: message.text.length, done: false }));
  message.tools = [...settled(message), ...called];
  announce(functions.map(toolLabel).join(", "));
}

function fail(message, text, code) {
  message.error = { title: "The answer failed", message: text, detail: code ? `Code: ${code}` : "" };
}

function finish(message, ending) {
  Object.assign(message, { running: false, ending, tools: settled(message) });
  announce(message.error?.message ?? (message.text || "The answer is empty."));
}

/** What one can do about a failed answer. */
function recoveries(message) {
  const index = chat.messages.indexOf(message);
  if (index !== chat.messages.length - 1) return [];
  const asked = chat.messages[index - 1]?.text;
  const lost = message.error.status === 404;
  return lost ? [["New conversation", () => startOver(asked)]] : [["Try again", () => ask(asked)]];
}

async function ask(text) {
  if (!text || assistant.busy || chat.messages.at(-1)?.running) return;
  const answer = { role: "assistant", text: "", tools: [], running: true, ending: null, error: null };
  const question = { role: "user", text };
  const before = chat.messages.at(-1);
  chat.messages.push(question, answer);
  if (before?.error) redraw(before);
  redraw(question);
  redraw(answer);
  conversation.scrollToEnd();
  announce("The assistant is answering.");
  try {
    await connected;
    const run = await assistant.start(text);
    answer.runId = run.runId;
  } catch (error) {
    if (!(error instanceof BFAssistant.AssistantError)) throw error;
    const detail = error.status ? `HTTP ${error.status}` : "";
    answer.error = { title: "The answer could not be started", message: error.message, detail, status: error.status };
    finish(answer, "error");
  }
  redraw(answer);
}

function startOver(text = "") {
  assistant.newThread();
  chat.messages = [];
  conversation.clear();
  showMode({ empty: true, busy: false });
  save();
  if (text) ask(text);
  else input.focus();
}

async function stop() {
  try {
    await assistant.stop();
  } catch (error) {
    announce(error.message);
    showConnection("offline", `Could not stop: ${error.message}`);
  }
}

/** Open the gateway's event stream, which begins now: the handler fetches what came before. Calls `ready` when it is open. */
function connect(ready) {
  const source = new EventSource(`gateway/events?${new URLSearchParams({ channel: chat.channel })}`);
  source.addEventListener("message", (event) => assistant.handleMessage(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    showConnection("offline", "Connection lost, trying again…");
    // An HTTP error, as of a proxy whose gateway starts again, ends the browser's own attempts.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => connect(ready), 1000);
  });
  source.addEventListener("open", () => {
    showConnection("online", config.provider);
    if ((opened += 1) > 1 && assistant.run && !assistant.run.ended) assistant.catchUp();
    ready();
  });
}

function resize() {
  send.disabled = input.value.trim() === "";
}

document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (send.disabled || assistant.busy) return;
  ask(input.value.trim());
  input.value = "";
  resize();
});
input.addEventListener("input", resize);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  document.getElementById("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && assistant.busy) stop();
});
document.getElementById("stop").addEventListener("click", () => {
  stop();
  input.focus();
});
document.getElementById("theme").addEventListener("click", toggleTheme);
document.getElementById("new").addEventListener("click", async () => {
  await stop();
  startOver();
});
addEventListener("pagehide", save);

showPrompts(PROMPTS, (text) => {
  input.focus();
  ask(text);
});
if (!chat.run && chat.messages.at(-1)?.running) finish(chat.messages.at(-1), "unknown");
const resumed = chat.run;
if (resumed) assistant.resume(resumed);
chat.messages.forEach(redraw);
showMode({ empty: chat.messages.length === 0, busy: assistant.busy });
conversation.scrollToEnd();
const connected = new Promise(connect);
save();
input.focus();
resize();
