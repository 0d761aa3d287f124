const STEP = 1;

/**
 * Draw a counter into `root`, replacing what is there.
 * @param {HTMLElement} root
 * @param {number} start the first count
 * @returns {{count: () => number}} reads the count as it stands
 */
export function mountCounter(root, start = 0) {
  let count = start;

  const less = button("−", `Subtract ${STEP}`, () => set(count - STEP));
  const more = button("+", `Add ${STEP}`, () => set(count + STEP));
  const shown = document.createElement("output");

  function set(value) {
    count = value;
    shown.textContent = count;
  }

  set(start);
  root.replaceChildren(less, shown, more);
  return { count: () => count };
}

function button(sign, label, onClick) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = sign;
  element.ariaLabel = label;
  element.addEventListener("click", onClick);
  return element;
}
