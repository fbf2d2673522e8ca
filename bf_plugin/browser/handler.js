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
 * once, in the order of seq, and what never arrived is fetched.
 */
(() => {
  "use strict";

  const ASSISTANTS = "/stream/create/assistants";
  const TOOL_RESPONSE = "/llm/tool-response";
  const REMEMBERED_RUNS = 20;

  /** Milliseconds. `gap`: when to ask for missing events, the last time is when to do without; `quiet`: how long a run
   * may be silent before it is asked after; `retry`: when to try a tool's answer again. */
  const TIMING = { gap: [250, 1000, 3000], quiet: 20000, retry: [300, 1000, 3000] };

  const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time));

  /** An HTTP request that failed, or an answer that is an error; `status` is 0 when there was no answer. */
  class AssistantError extends Error {
    constructor(message, { status = 0, code = status, details = null, errors = {}, retryAfter = null } = {}) {
      super(message);
      this.name = "AssistantError";
      Object.assign(this, { status, code, details, errors, retryAfter });
    }
  }

  /** One run as the page sees it: `text` so far, and which events it has. Pure: no timers, no network. */
  class RunView {
    #waiting = new Map(); // seq -> event, after a hole
    #pieces = new Map(); // offset -> text, after a hole
    #emit;

    constructor(known, emit = () => {}) {
      const { runId, threadId = null, text = "", length = text.length, seq = 0, complete = true, calls = [] } = known;
      Object.assign(this, { runId, threadId, text, length, complete, calls, next: seq + 1, ended: false });
      this.#emit = emit;
    }

    /** Whether events are missing: something after them has arrived. */
    get gap() {
      return this.#waiting.size > 0;
    }

    /** What a reloaded page needs to go on with this run. */
    snapshot() {
      const { runId, threadId, text, length, complete, calls, next } = this;
      return { runId, threadId, text, length, complete, calls, seq: next - 1 };
    }

    /** Take an event, in any order and any number of times. One without seq (another gateway's) counts as new. */
    accept(event) {
      const { seq } = event;
      this.threadId = event.threadId ?? event.content?.assistantThreadId ?? this.threadId;
      if (seq !== undefined && (seq < this.next || this.#waiting.has(seq))) return;
      if (event.type === "delta") this.#place(event);
      if (seq === undefined) {
        if (event.type !== "delta") this.#pass(event);
        return;
      }
      this.#waiting.set(seq, event);
      this.#drain();
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
      for (const { toolCallId } of event.content?.calls ?? []) this.calls.push(toolCallId);
      this.#emit(event.type, this, event);
    }
  }

  /**
   * Starts, follows, stops and continues runs, and runs the page's tools.
   *
   * Options: `base` (the gateway's URL, default this origin), `apiKey`, `channels`, `actionName`, `payload` (merged
   * into every start: model, instructions, tools ...), `tools` ({name: (args, {toolCallId, name}) => message or data},
   * without the prefix `ui_`), `storage` and `storageKey` (where the thread id is kept), `fetch`,
   * `fetchMissed(run, afterSeq)` -> events or null, `timing`.
   *
   * Callbacks, all optional, the run last: `onThread({threadId, runId}, run)`, `onText(text, run)`,
   * `onTool(functions, run)`, `onError({message, code, details}, run)`, `onEnd({finishReason, usage, complete}, run)`.
   */
  class Assistant {
    #options;
    #runs = new Map();
    #filling = new Set();
    #calls = new Set();
    #timers = new WeakMap();
    #starting = false;
    #stopWanted = false;

    constructor(options = {}) {
      this.#options = {
        base: "",
        tools: {},
        storageKey: "bfAssistantThread",
        fetch: (...request) => globalThis.fetch(...request),
        fetchMissed: (run, afterSeq) => this.#fetchMissed(run, afterSeq),
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
      if (this.run) this.run.ended = true;
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
        this.#watch(this.run);
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

    /** Go on with a run after a reload, from what `run.snapshot()` gave before it. */
    async resume(snapshot) {
      const run = this.#view(snapshot);
      this.run = run;
      this.#keepThread(run.threadId);
      const seen = run.next;
      if (!(await this.catchUp(run)) && !run.ended) {
        // Nobody to ask what was missed. If it stays silent, its end was probably among it.
        setTimeout(() => run.next === seen && !run.gap && !run.ended && this.#lose(run), this.#options.timing.quiet);
      }
      setTimeout(() => this.#answerLostCalls(run), this.#options.timing.gap.at(-1));
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
      run.accept(event);
      if (run.gap) this.#fill(run);
      this.#watch(run);
    }

    /** Run the page's function for a browser tool and post its answer. The same toolCallId runs once. */
    async handleToolCall({ functions = [], toolCallId } = {}) {
      if (toolCallId) await this.#respond(toolCallId, () => this.#runTools(functions, toolCallId));
    }

    /** Fetch what `run` missed; false when the gateway cannot tell. */
    async catchUp(run = this.run) {
      let events = null;
      try {
        events = await this.#options.fetchMissed(run, run.next - 1);
      } catch (error) {
        if (!(error instanceof AssistantError)) throw error;
      }
      for (const event of events ?? []) run.accept(event);
      return Array.isArray(events);
    }

    async #fetchMissed({ runId, threadId }, afterSeq) {
      const path = `${ASSISTANTS}/runs/${encodeURIComponent(runId)}/events?after=${afterSeq}`;
      const headers = { Accept: "application/json", "X-Thread-Id": threadId ?? "" };
      const answer = await this.#request(path, { headers });
      return Array.isArray(answer) ? answer : answer.events;
    }

    #view(known) {
      let run = this.#runs.get(known.runId);
      if (!run) {
        run = new RunView(known, (type, view, event) => this.#emit(type, view, event));
        this.#runs.set(run.runId, run);
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
      } else if (type === "function_call") this.#call("onTool", event.content?.functions ?? [], run);
      else if (type === "error") this.#call("onError", { message: event.content, ...event.error }, run);
      else if (type === "end") this.#end(run, event.finish_reason ?? "stop", event.usage);
    }

    #end(run, finishReason, usage = null) {
      this.#call("onEnd", { finishReason, usage, complete: run.complete }, run);
    }

    #lose(run) {
      run.ended = true;
      run.complete = false;
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

    /** Ask for the events before a hole, a few times; then go on without them. */
    async #fill(run) {
      if (this.#filling.has(run)) return;
      this.#filling.add(run);
      try {
        for (const delay of this.#options.timing.gap) {
          await sleep(delay);
          if (run.gap) await this.catchUp(run);
          if (!run.gap) return;
        }
        while (run.gap) run.skip();
      } finally {
        this.#filling.delete(run);
      }
    }

    /** Ask for the rest of a run that has gone silent, once for each silence. */
    #watch(run) {
      clearTimeout(this.#timers.get(run));
      if (run.ended) return;
      this.#timers.set(run, setTimeout(() => run.ended || this.catchUp(run), this.#options.timing.quiet));
    }

    /** Calls from before a reload: what to do was lost with the page, so say so instead of letting the run wait. */
    #answerLostCalls(run) {
      const message = "the page was reloaded before it could do this";
      for (const toolCallId of run.ended ? [] : run.calls) {
        this.#respond(toolCallId, async () => ({ success: false, message, data: null }));
      }
    }

    async #respond(toolCallId, work) {
      if (this.#calls.has(toolCallId)) return;
      this.#calls.add(toolCallId);
      try {
        await this.#answerTool({ toolCallId, ...(await work()) });
      } catch (error) {
        this.#call("onError", { message: error.message, code: error.code, details: error.details }, this.run);
      }
      for (const run of this.#runs.values()) run.calls = run.calls.filter((id) => id !== toolCallId);
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
      const { tools } = this.#options;
      const bare = name.replace(/^ui_/, "");
      const key = [name, bare].find((candidate) => Object.hasOwn(tools, candidate));
      if (key === undefined) return { success: false, message: `this page has no tool named ${bare}`, data: null };
      try {
        const args = typeof text === "string" ? JSON.parse(text || "{}") : (text ?? {});
        const result = await tools[key](args, { toolCallId, name: bare });
        return typeof result === "string"
          ? { success: true, message: result, data: null }
          : { success: true, message: "done", data: result ?? null };
      } catch (error) {
        return { success: false, message: String(error?.message ?? error), data: null };
      }
    }

    async #answerTool(answer) {
      for (const delay of this.#options.timing.retry) {
        try {
          return await this.#post(TOOL_RESPONSE, answer);
        } catch (error) {
          if (error.status !== 0 && error.status !== 429 && error.status < 500) throw error;
        }
        await sleep(delay);
      }
      return this.#post(TOOL_RESPONSE, answer);
    }

    #post(path, body) {
      const headers = { "Content-Type": "application/json", Accept: "application/json" };
      return this.#request(path, { method: "POST", headers, body: JSON.stringify(body) });
    }

    async #request(path, init) {
      let response;
      try {
        response = await this.#options.fetch(this.#options.base + path, init);
      } catch (error) {
        throw new AssistantError("The gateway cannot be reached.", { details: String(error) });
      }
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
