/**
 * The page's side of the assistants endpoint: no dependencies, no build step.
 *
 * Load it as a script or with `import "./handler.js"`; both define `globalThis.BFAssistant`.
 *
 *   const assistant = new BFAssistant.Assistant({ apiKey, channels: ["c"], actionName: "handleAssistantResponse",
 *                                                 onText: (text) => { output.textContent = text; } });
 *   socket.onmessage = (message) => assistant.handleMessage(JSON.parse(message.data));
 *   await assistant.start("What's the weather like?");
 *
 * The gateway's messages arrive at least once, so every event carries `seq` (1, 2, 3 ... per run) and every delta an
 * `offset` in UTF-16 code units, which is JavaScript's `length`. Text is placed by offset, everything else is taken
 * once, in the order of seq, and what did not arrive is fetched: after a hole, after a silence, after a reload.
 */
(() => {
  "use strict";

  const ASSISTANTS = "/stream/create/assistants";
  const TOOL_RESPONSE = "/llm/tool-response";
  const EVENT_STREAM = "text/event-stream";
  const REMEMBERED_RUNS = 20;

  /** Milliseconds. `gap`: when to ask for missing events, the last time is when to do without; `quiet`: how long a run
   * may be silent before it is asked after; `retry`: when to try a request again, the last one over and over;
   * `patience`: how long a gateway that cannot be reached, or cannot tell, is asked; `answer`: how long one request may
   * take; `call`: how long a tool call that is known of may take to arrive. */
  const TIMING = {
    gap: [250, 1000, 3000],
    quiet: 5000,
    retry: [300, 1000, 3000],
    patience: 120000,
    answer: 10000,
    call: 5000,
  };

  const bareName = (name = "") => name.replace(/^ui_/, "");

  const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time));

  /** An HTTP request that failed, or an answer that is an error; `status` is 0 when there was no answer. */
  class AssistantError extends Error {
    constructor(message, { status = 0, code = status, details = null, errors = {}, retryAfter = null } = {}) {
      super(message);
      this.name = "AssistantError";
      Object.assign(this, { status, code, details, errors, retryAfter });
    }

    /** Whether asking again may help: there was no answer, half an answer, or that of a server that is not well. */
    get passing() {
      return this.status < 300 || this.status === 408 || this.status === 429 || this.status >= 500;
    }

    /** Whether nothing will come any more. A 404 that does not name the run is another gateway's, and says nothing. */
    get gone() {
      return this.status === 410 || (this.status === 404 && Object.hasOwn(Object(this.errors), "runId"));
    }
  }

  /** One run as the page sees it: `text` so far, and which events it has. Pure: no timers, no network. */
  class RunView {
    #waiting = new Map(); // seq -> event, after a hole
    #pieces = new Map(); // offset -> text, after a hole
    #emit;

    constructor(known, emit = () => {}) {
      const { runId, threadId = null, text = "", length = text.length, seq = 0 } = known;
      const { complete = true, calls = [], ended = false } = known;
      Object.assign(this, { runId, threadId, text, length, complete, calls, ended, next: seq + 1, lost: false });
      this.#emit = emit;
    }

    /** Whether events are missing: something after them has arrived. */
    get gap() {
      return this.#waiting.size > 0;
    }

    /** What a reloaded page needs to go on with this run. */
    snapshot() {
      const { runId, threadId, text, length, complete, calls, ended, next } = this;
      return { runId, threadId, text, length, complete, calls, ended, seq: next - 1 };
    }

    /**
     * Take an event, in any order and any number of times; false if it was known. One without seq (another gateway's)
     * counts as new.
     */
    accept(event) {
      const { seq } = event;
      this.threadId = event.threadId ?? event.content?.assistantThreadId ?? this.threadId;
      if (seq !== undefined && (seq < this.next || this.#waiting.has(seq))) return false;
      if (this.lost) Object.assign(this, { lost: false, ended: false });
      if (event.type === "delta") this.#place(event);
      if (seq !== undefined) {
        this.#waiting.set(seq, event);
        this.#drain();
      } else if (event.type !== "delta") this.#pass(event);
      return true;
    }

    /** Give the run up; an event that comes after all takes that back. */
    lose() {
      Object.assign(this, { lost: true, ended: true, complete: false });
    }

    /** Do without the missing events: a hole in the text is shown as an ellipsis and `complete` turns false. */
    skip() {
      if (!this.gap) return;
      this.complete = false;
      this.next = Math.min(...this.#waiting.keys());
      const offset = Math.min(...this.#pieces.keys());
      if (Number.isFinite(offset)) {
        this.text += "\u2026";
        this.length = offset;
        this.#join();
        this.#emit("text", this);
      }
      this.#drain();
    }

    #place({ content, offset = this.length }) {
      this.#pieces.set(offset, content);
      if (this.#join()) this.#emit("text", this);
    }

    /** Append every piece that begins within the text; return whether there was anything new. */
    #join() {
      const before = this.length;
      for (let grown = true; grown; ) {
        grown = false;
        for (const [offset, content] of this.#pieces) {
          if (offset > this.length) continue;
          this.#pieces.delete(offset);
          const fresh = content.slice(this.length - offset);
          this.text += fresh;
          this.length += fresh.length;
          grown = true;
        }
      }
      return this.length > before;
    }

    #drain() {
      for (let event; (event = this.#waiting.get(this.next)); ) {
        this.#waiting.delete(this.next);
        this.next += 1;
        if (event.type !== "delta") this.#pass(event);
      }
    }

    #pass(event) {
      if (event.type === "end") this.ended = true;
      for (const { name, toolCallId } of event.calls ?? []) this.calls.push({ name, toolCallId });
      this.#emit(event.type, this, event);
    }
  }

  /**
   * Keeps one run whole: asks for what is missing after a hole and after a silence, and follows the run on a line of its
   * own while the gateway's messages do not come.
   */
  class Keeper {
    #run;
    #fetchMissed;
    #timing;
    #lose;
    #timer = null;
    #line = null;
    #asking = null;
    #mending = false;
    #news = Date.now();

    constructor(run, { fetchMissed, timing, lose }) {
      this.#run = run;
      this.#fetchMissed = fetchMissed;
      this.#timing = timing;
      this.#lose = lose;
    }

    /** A message of the gateway brought an event, which was new if `fresh`. */
    heard(fresh) {
      if (this.#run.gap) this.#mend();
      else if (fresh) this.#line?.abort(); // messages flow, so the server's thread can have its rest
      this.watch();
    }

    /** Wait for the next event; ask if it does not come. */
    watch() {
      clearTimeout(this.#timer);
      this.#news = Date.now();
      if (this.#run.ended) this.#line?.abort();
      else this.#wait();
    }

    /** Get what is missing, then follow the run: if `always`, or if messages were lost. False: nobody can tell. */
    async catchUp(always = true) {
      const { next } = this.#run;
      const told = await this.#ask();
      if (this.#run.ended) return told;
      if (told && (always || this.#run.next > next)) this.#follow();
      const silence = Date.now() - this.#news;
      if (!told && silence > this.#timing.patience) this.#lose();
      else this.#wait();
      return told;
    }

    #wait() {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#run.ended || this.catchUp(false), this.#timing.quiet);
    }

    /** Ask for the events before a hole, a few times; then go on without them. */
    async #mend() {
      if (this.#mending) return;
      this.#mending = true;
      try {
        for (const delay of this.#timing.gap) {
          await sleep(delay);
          if (this.#run.gap) await this.#ask();
          if (!this.#run.gap) return;
        }
        this.#skip();
      } finally {
        this.#mending = false;
        this.watch();
      }
    }

    #skip() {
      while (this.#run.gap) this.#run.skip();
    }

    /** Ask until there is an answer, which is what everybody who asks meanwhile gets. False: nobody can tell. */
    #ask() {
      this.#asking ??= this.#askPatiently().finally(() => {
        this.#asking = null;
      });
      return this.#asking;
    }

    async #askPatiently() {
      const last = Date.now() + this.#timing.patience;
      for (let failures = 0; ; failures += 1) {
        const answer = await this.#take({});
        if (answer !== "away" || this.#run.ended) return answer === "told";
        if (Date.now() > last) break;
        await this.#pause(failures);
      }
      if (this.#run.gap) this.#skip();
      else this.#lose();
      return false;
    }

    /** Follow the run until it ends or messages flow again; a line that breaks is opened again. */
    async #follow() {
      this.#line?.abort();
      const line = (this.#line = new AbortController());
      const over = () => this.#run.ended || line.signal.aborted;
      for (let failures = 0; !over(); failures += 1) {
        const { next } = this.#run;
        const answer = await this.#take({ live: true, signal: line.signal });
        if (answer === "unknown" || over()) break;
        if (this.#run.next > next) failures = 0;
        await this.#pause(failures);
        // There may be no line to be had for now.
        if (!over() && !(await this.#ask())) break;
      }
    }

    /** Take the events somebody has for us. The answer: "told", "away" (ask again) or "unknown". */
    async #take(how) {
      try {
        const events = await this.#fetchMissed(this.#run, this.#run.next - 1, how);
        for await (const event of events ?? []) {
          this.#run.accept(event);
          this.watch();
          if (how.signal?.aborted) break;
        }
        return events ? "told" : "unknown";
      } catch (error) {
        if (!(error instanceof AssistantError)) throw error;
        if (error.gone) this.#forget();
        return error.passing ? "away" : "unknown";
      }
    }

    #forget() {
      this.#skip();
      if (!this.#run.ended) this.#lose();
    }

    /** Wait before the next try, not all pages at once: they have all lost the same server. */
    #pause(failures) {
      const { retry } = this.#timing;
      return sleep(retry[Math.min(failures, retry.length - 1)] * (0.5 + Math.random()));
    }
  }

  /** The events of an answer of server-sent events; throws an AssistantError when the line breaks. */
  async function* streamed(body) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let text = "";
    try {
      for (let part; !(part = await reader.read()).done; ) {
        const frames = (text + decoder.decode(part.value, { stream: true })).split("\n\n");
        text = frames.pop();
        for (const frame of frames) {
          const data = frame.split("\n").filter((line) => line.startsWith("data:"));
          if (data.length) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
        }
      }
    } catch (error) {
      throw new AssistantError("The line to the gateway broke.", { details: String(error) });
    } finally {
      reader.cancel().catch(() => {}); // of a line that has broken
    }
  }

  /**
   * Starts, follows, stops and continues runs, and runs the page's tools.
   *
   * Options: `base` (the gateway's URL, default this origin), `apiKey`, `channels`, `actionName`, `payload` (merged
   * into every start: model, instructions, tools ...), `tools` ({name: (args, {toolCallId, name}) => message or data},
   * without the prefix `ui_`), `lostCall` (({name, toolCallId, functions}, run) => message or data, for a call of one of
   * `tools` that this page did not get or did not answer before it was reloaded; the default answers that it was lost),
   * `storage` and `storageKey` (where the thread id is kept), `fetch`, `fetchMissed(run, afterSeq, {live, signal})` ->
   * events (a list, or with `live` an async iterable of those to come) or null, `timing`.
   *
   * Callbacks, all optional, the run last: `onThread({threadId, runId}, run)`, `onText(text, run)`,
   * `onTool(functions, run)`, `onError({message, code, details}, run)`, `onEnd({finishReason, usage, complete}, run)`.
   */
  class Assistant {
    #options;
    #runs = new Map();
    #keepers = new WeakMap();
    #calls = new Set();
    #starting = false;
    #stopWanted = false;

    constructor(options = {}) {
      this.#options = {
        base: "",
        tools: {},
        storageKey: "bfAssistantThread",
        fetch: (...request) => globalThis.fetch(...request),
        fetchMissed: (run, afterSeq, how) => this.#fetchMissed(run, afterSeq, how),
        lostCall: () => {
          throw new Error("the page lost this call before it could do it");
        },
        ...options,
        timing: { ...TIMING, ...options.timing },
      };
      this.threadId = options.threadId ?? options.storage?.getItem(this.#options.storageKey) ?? null;
      /** The run that was started or heard of last. */
      this.run = null;
    }

    /** Whether a run is being started or is under way. */
    get busy() {
      return this.#starting || (this.run !== null && !this.run.ended);
    }

    /** Forget the thread and the run under way, which is not stopped: the next start begins a new conversation. */
    newThread() {
      if (this.run) {
        this.run.ended = true;
        this.#keepers.get(this.run).watch();
      }
      this.run = null;
      this.#keepThread(null);
    }

    /**
     * Start a run in the present thread. `input` is the user's text or a list of messages; `payload` is for this run.
     * Rejects with an AssistantError that says what the gateway said.
     */
    async start(input, payload = {}) {
      const { apiKey, channels, actionName } = this.#options;
      const messages = typeof input === "string" ? [{ role: "user", content: input }] : input;
      const thread = this.threadId ? { thread_id: this.threadId } : {};
      const whole = { ...this.#options.payload, ...payload, ...thread, stream: true, messages };
      this.#starting = true;
      this.#stopWanted = false;
      try {
        const answer = await this.#post(ASSISTANTS, { apiKey, channels, actionName, payload: whole });
        // Its first events may have come before this answer: then the view exists.
        this.run = this.#view(answer);
        this.#keepThread(answer.threadId);
        this.#keepers.get(this.run).watch();
      } finally {
        this.#starting = false;
      }
      if (this.#stopWanted) await this.stop();
      return this.run;
    }

    /** Stop the run under way; one that is still being started is stopped as soon as it has a name. */
    async stop() {
      if (this.#starting) {
        this.#stopWanted = true;
        return null;
      }
      if (!this.run || this.run.ended) return null;
      const { threadId, runId } = this.run;
      return this.#post(`${ASSISTANTS}/stop`, { threadId, runId });
    }

    /** Go on with a run after a reload, from what `run.snapshot()` gave before it, or from its two ids alone. */
    async resume(snapshot) {
      const run = this.#view(snapshot);
      this.run = run;
      this.#keepThread(run.threadId);
      this.#awaitCalls(run, run.calls);
      if (!run.ended) await this.catchUp(run);
      return run;
    }

    /** Take a message as the gateway's socket delivers it: `{"actions": [...]}`. */
    handleMessage(message) {
      const { actionName } = this.#options;
      for (const action of message?.actions ?? []) {
        if (action.action === "llmToolCall") this.handleToolCall(action.options);
        else if (action.action === "namedAction" && action.name === actionName) this.handle(action.options);
      }
    }

    /** Take the options of one call of the named action: an event, or an event under `data`. */
    handle(options) {
      const event = options?.type === undefined ? options?.data : options;
      const runId = event?.runId ?? event?.content?.runId ?? this.run?.runId;
      if (event?.type === undefined || runId === undefined) return;
      const run = this.#view({ runId });
      // A run started elsewhere, by a server hook or in another tab, is ours if we have none.
      if (!this.#starting && !run.ended && (this.run === null || this.run.ended)) this.run = run;
      this.#keepers.get(run).heard(run.accept(event));
    }

    /** Run the page's function for a browser tool and post its answer. The same toolCallId runs once. */
    async handleToolCall({ functions = [], toolCallId } = {}) {
      if (!toolCallId) return;
      for (const call of this.#open(toolCallId)) call.functions = functions;
      await this.#respond(toolCallId, () => this.#runTools(functions, toolCallId));
    }

    /** Get what `run` missed, and what it misses until messages flow again; false when the gateway cannot tell. */
    async catchUp(run = this.run) {
      return this.#keepers.get(run).catchUp();
    }

    async #fetchMissed({ runId, threadId }, afterSeq, { live = false, signal } = {}) {
      if (!threadId) return null;
      const path = `${ASSISTANTS}/runs/${encodeURIComponent(runId)}/events?after=${afterSeq}`;
      const headers = { Accept: live ? EVENT_STREAM : "application/json", "X-Thread-Id": threadId };
      const limit = new AbortController();
      const timer = setTimeout(() => limit.abort(), this.#options.timing.answer);
      signal?.addEventListener("abort", () => limit.abort());
      try {
        const response = await this.#send(path, { headers, signal: limit.signal });
        const stream = response.ok && response.headers.get("Content-Type")?.startsWith(EVENT_STREAM);
        if (stream) return streamed(response.body);
        if (response.status === 204) throw new AssistantError("The run is over.", { status: 410 });
        const answer = await this.#read(response);
        return Array.isArray(answer) ? answer : answer.events;
      } finally {
        clearTimeout(timer);
      }
    }

    #view(known) {
      let run = this.#runs.get(known.runId);
      if (!run) {
        run = new RunView(known, (type, view, event) => this.#emit(type, view, event));
        this.#runs.set(run.runId, run);
        const { fetchMissed, timing } = this.#options;
        this.#keepers.set(run, new Keeper(run, { fetchMissed, timing, lose: () => this.#giveUp(run) }));
        if (this.#runs.size > REMEMBERED_RUNS) this.#runs.delete(this.#runs.keys().next().value);
      }
      run.threadId ??= known.threadId ?? null;
      return run;
    }

    #emit(type, run, event) {
      if (type === "text") this.#call("onText", run.text, run);
      else if (type === "threadInfo") {
        if (run === this.run) this.#keepThread(run.threadId);
        this.#call("onThread", { threadId: run.threadId, runId: run.runId }, run);
      } else if (type === "function_call") {
        this.#awaitCalls(run, event.calls ?? []);
        this.#call("onTool", event.content?.functions ?? [], run);
      } else if (type === "error") this.#call("onError", { message: event.content, ...event.error }, run);
      else if (type === "end") this.#end(run, event.finish_reason ?? "stop", event.usage);
    }

    #end(run, finishReason, usage = null) {
      this.#call("onEnd", { finishReason, usage, complete: run.complete }, run);
    }

    #giveUp(run) {
      run.lose();
      this.#end(run, "unknown");
    }

    #call(name, ...args) {
      try {
        this.#options[name]?.(...args);
      } catch (error) {
        // The page's mistake must show, and must not stop the events behind it.
        queueMicrotask(() => {
          throw error;
        });
      }
    }

    #keepThread(threadId) {
      this.threadId = threadId ?? null;
      const { storage, storageKey } = this.#options;
      if (threadId) storage?.setItem(storageKey, threadId);
      else storage?.removeItem(storageKey);
    }

    /** Answer the calls of this page's tools that do not arrive: what to do was lost, and the run waits for it. */
    #awaitCalls(run, calls) {
      for (const { name, toolCallId } of calls) {
        if (this.#toolFor(name)) setTimeout(() => this.#answerLost(run, toolCallId), this.#options.timing.call);
      }
    }

    #answerLost(run, toolCallId) {
      const call = run.calls.find((known) => known.toolCallId === toolCallId);
      if (call && !run.ended) this.#respond(toolCallId, () => this.#outcome(() => this.#options.lostCall(call, run)));
    }

    #open(toolCallId) {
      return [...this.#runs.values()].flatMap((run) => run.calls).filter((call) => call.toolCallId === toolCallId);
    }

    async #respond(toolCallId, work) {
      if (this.#calls.has(toolCallId)) return;
      this.#calls.add(toolCallId);
      try {
        await this.#answerTool({ toolCallId, ...(await work()) });
      } catch (error) {
        this.#call("onError", { message: error.message, code: error.code, details: error.details }, this.run);
      }
      for (const run of this.#runs.values()) run.calls = run.calls.filter((call) => call.toolCallId !== toolCallId);
    }

    async #runTools(functions, toolCallId) {
      let answer = { success: false, message: "no function was named", data: null };
      for (const call of functions) {
        answer = await this.#runTool(call, toolCallId);
        if (!answer.success) break;
      }
      return answer;
    }

    async #runTool({ name = "", arguments: text }, toolCallId) {
      const tool = this.#toolFor(name);
      const bare = bareName(name);
      if (!tool) return { success: false, message: `this page has no tool named ${bare}`, data: null };
      return this.#outcome(() => {
        const args = typeof text === "string" ? JSON.parse(text || "{}") : (text ?? {});
        return tool(args, { toolCallId, name: bare });
      });
    }

    #toolFor(name) {
      const { tools } = this.#options;
      const key = [name, bareName(name)].find((candidate) => Object.hasOwn(tools, candidate));
      return key === undefined ? null : tools[key];
    }

    /** What to answer for a tool: a string is its message, anything else its data, an exception a failure. */
    async #outcome(work) {
      try {
        const result = await work();
        return typeof result === "string"
          ? { success: true, message: result, data: null }
          : { success: true, message: "done", data: result ?? null };
      } catch (error) {
        return { success: false, message: String(error?.message ?? error), data: null };
      }
    }

    async #answerTool(answer) {
      // Preflights of the first path are the host's business, those of the second the plugin's.
      const path = this.#options.base ? `${ASSISTANTS}/tool-response` : TOOL_RESPONSE;
      for (const delay of this.#options.timing.retry) {
        try {
          return await this.#post(path, answer);
        } catch (error) {
          if (!error.passing) throw error;
        }
        await sleep(delay);
      }
      return this.#post(path, answer);
    }

    async #post(path, body) {
      const headers = { "Content-Type": "application/json", Accept: "application/json" };
      return this.#read(await this.#send(path, { method: "POST", headers, body: JSON.stringify(body) }));
    }

    async #send(path, init) {
      try {
        return await this.#options.fetch(this.#options.base + path, init);
      } catch (error) {
        throw new AssistantError("The gateway cannot be reached.", { details: String(error) });
      }
    }

    async #read(response) {
      const body = await response.json().catch(() => null);
      if (response.ok && body !== null) return body;
      throw new AssistantError(body?.message ?? body?.error?.message ?? `The gateway answered ${response.status}.`, {
        status: response.status,
        code: body?.error?.code ?? body?.code ?? response.status,
        details: body?.error?.details ?? null,
        errors: body?.errors ?? {},
        retryAfter: Number(response.headers?.get("Retry-After")) || null,
      });
    }
  }

  globalThis.BFAssistant = Object.freeze({ Assistant, AssistantError, RunView });
})();
