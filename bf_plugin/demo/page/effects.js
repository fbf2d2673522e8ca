// What the page looks like: light or dark, the accent colour, confetti.

export const ACCENTS = ["teal", "green", "orange", "pink", "blue", "violet"];
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

/** Apply what was chosen before; without a choice the system decides. */
export function restoreLook() {
  const theme = localStorage.getItem("theme");
  if (theme) root.dataset.theme = theme;
  const accent = localStorage.getItem("accent");
  if (ACCENTS.includes(accent)) root.dataset.accent = accent;
}

/** Make the page light or dark and remember it. */
export function setTheme(mode) {
  if (mode !== "light" && mode !== "dark") throw new Error("the page can be light or dark");
  root.dataset.theme = mode;
  localStorage.setItem("theme", mode);
}

/** Switch between light and dark. */
export function toggleTheme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
  setTheme(dark ? "light" : "dark");
}

/** Give the page another accent colour; throws for one it does not have. */
export function setAccent(colour) {
  if (!ACCENTS.includes(colour)) throw new Error(`the page has these colours: ${ACCENTS.join(", ")}`);
  root.dataset.accent = colour;
  localStorage.setItem("accent", colour);
}

/** Let confetti fall once. */
export function throwConfetti(pieces = 90) {
  const layer = document.createElement("div");
  layer.className = "confetti";
  layer.setAttribute("aria-hidden", "true");
  const between = (low, high) => low + Math.random() * (high - low);
  for (let piece = 0; piece < pieces; piece += 1) {
    const paper = document.createElement("i");
    paper.style.left = `${between(0, 100)}%`;
    paper.style.background = `oklch(72% 0.17 ${between(0, 360)})`;
    paper.style.setProperty("--time", `${between(1.6, 3)}s`);
    paper.style.setProperty("--wait", `${between(0, 0.5)}s`);
    paper.style.setProperty("--drift", `${between(-8, 8)}rem`);
    paper.style.setProperty("--spin", `${between(-900, 900)}deg`);
    layer.append(paper);
  }
  document.body.append(layer);
  setTimeout(() => layer.remove(), 4000);
}
