// Draws the conversation. All text goes in as text, never as HTML.

const ENDINGS = {
  length: "The answer reached its length limit.",
  content_filter: "The provider's content filter ended the answer.",
  cancelled: "Stopped.",
  expired: "The answer took too long and was ended.",
  unknown: "The connection was lost; the rest of this answer is missing.",
};
const TOOLS = {
  getCurrentWeather: "Looking up the weather",
  ui_setColour: "Changing the page’s colour",
  ui_setTheme: "Changing the page’s theme",
  ui_confetti: "Throwing confetti",
};
const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function button(text, action) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

/** The list of messages; a message is {role, text, tools: [{label, at, done}], running, ending, error}.
 * A tool is shown where it was called: after `at` characters of the text. */
export class Conversation {
  #list = byId("conversation");
  #scroller = byId("scroller");
  #drawn = new WeakMap();

  clear() {
    this.#list.replaceChildren();
  }

  /** Draw a message, or draw it again. `actions` are [label, function] for a failure's buttons. */
  draw(message, actions = []) {
    const atEnd = this.#atEnd();
    const parts = this.#drawn.get(message) ?? this.#add(message);
    this.#drawBody(message, parts.body);
    if (message.role === "assistant") this.#drawAssistant(message, parts, actions);
    if (atEnd) this.scrollToEnd();
  }

  scrollToEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  /** Whether the reader is at the end, and so wants to follow what is being written. */
  #atEnd() {
    const { scrollTop, clientHeight, scrollHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < 80;
  }

  #add(message) {
    const item = element("li", `message ${message.role}`);
    const parts = { item, body: element("div", "body"), end: element("div") };
    item.append(element("span", "hidden", message.role === "user" ? "You said:" : "The assistant said:"));
    item.append(parts.body, parts.end);
    this.#list.append(item);
    this.#drawn.set(message, parts);
    return parts;
  }

  /** Draw text and tools in turn; what is there already is kept, so that a selection survives streaming. */
  #drawBody({ text, tools = [] }, body) {
    const places = [...new Set(tools.map((tool) => tool.at))];
    const count = 2 * places.length + 1;
    while (body.childElementCount > count) body.lastElementChild.remove();
    for (let index = 0; index < count; index += 1) {
      const place = index >> 1;
      const make = () => (index % 2 ? element("ul", "chips") : element("div", "text"));
      const shown = body.children[index] ?? body.appendChild(make());
      if (index % 2) this.#drawChips(tools.filter((tool) => tool.at === places[place]), shown);
      else write(shown, text.slice(places[place - 1] ?? 0, places[place]));
    }
  }

  #drawChips(tools, list) {
    tools.forEach((tool, index) => {
      const chip = list.children[index] ?? list.appendChild(element("li", "chip"));
      chip.classList.toggle("done", tool.done);
      write(chip, tool.label);
    });
  }

  #drawAssistant(message, { item, end }, actions) {
    item.classList.toggle("running", message.running);
    item.classList.toggle("begun", message.text.length > (message.tools.at(-1)?.at ?? 0));
    item.setAttribute("aria-busy", String(message.running));
    end.replaceChildren();
    if (message.error) end.append(this.#failure(message.error, actions));
    else if (ENDINGS[message.ending]) end.append(element("p", "note", ENDINGS[message.ending]));
    end.hidden = !end.hasChildNodes();
  }

  #failure({ title, message, detail }, actions) {
    const box = element("div", "failure");
    box.setAttribute("role", "alert");
    box.append(element("strong", "", title), element("p", "", message));
    if (detail) box.append(element("p", "detail", detail));
    const row = element("div", "row");
    row.append(...actions.map(([label, action]) => button(label, action)));
    if (actions.length) box.append(row);
    return box;
  }
}

/** What a tool's chip says: the model's own words, ours, or the tool's name. */
export const toolLabel = ({ name, userMessage }) => userMessage || TOOLS[name] || `Using ${name}`;

/** Offer prompts on the empty page. */
export function showPrompts(prompts, ask) {
  byId("prompts").replaceChildren(
    ...prompts.map(([text, hint]) => {
      const item = element("li");
      const offer = button(text, () => ask(text));
      offer.append(element("small", "", hint));
      item.append(offer);
      return item;
    }),
  );
}

/** Say something to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

export function showConnection(state, text) {
  byId("status").dataset.state = state;
  byId("status-text").textContent = text;
}

/** Show the welcome or the conversation, and the button that fits what is going on. */
export function showMode({ empty, busy }) {
  byId("welcome").hidden = !empty;
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
}
