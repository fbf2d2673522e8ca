// Runs JavaScript for the Python tests: a line in is {"code", "args"}, a line out is {"value"} or {"error"}.
// `code` is the body of an async function with BFAssistant, `args` and the helpers below in scope.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

await import(pathToFileURL(process.argv[2]));

/** A gateway for one test: `answers` maps paths to [status, body] or to a list of those, one for each request. */
function fakeGateway(answers) {
  const requests = [];
  const fetch = async (path, init = {}) => {
    const known = answers[path.split("?")[0]];
    requests.push({ path, method: init.method ?? "GET", headers: init.headers, body: init.body && JSON.parse(init.body) });
    const next = Array.isArray(known?.[0]) ? known.shift() : known;
    if (next === "down" || next?.[0] === "down") throw new TypeError("fetch failed");
    const [status, body] = next ?? [404, { message: "Page not found" }];
    return new Response(JSON.stringify(body), { status });
  };
  return { fetch, requests };
}

/** Callbacks that write down what they were called with. */
function recorder() {
  const log = [];
  const callbacks = {};
  for (const name of ["onThread", "onText", "onTool", "onError", "onEnd"]) {
    callbacks[name] = (value) => log.push([name, value]);
  }
  return { log, callbacks };
}

/** Wait until `condition()`, at most two seconds. */
async function until(condition) {
  for (let turn = 0; turn < 1000 && !condition(); turn += 1) await new Promise((resolve) => setTimeout(resolve, 2));
  if (!condition()) throw new Error(`never: ${condition}`);
}

class Storage {
  #values = new Map();
  getItem = (key) => this.#values.get(key) ?? null;
  setItem = (key, value) => void this.#values.set(key, String(value));
  removeItem = (key) => void this.#values.delete(key);
}

const AsyncFunction = (async () => {}).constructor;
const scope = { BFAssistant: globalThis.BFAssistant, AsyncFunction, Storage, fakeGateway, recorder, until };

for await (const line of createInterface({ input: process.stdin })) {
  const { code, args } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await new AsyncFunction(...Object.keys(scope), "args", code)(...Object.values(scope), args)) ?? null };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0); // timers of handlers under test would keep it alive
