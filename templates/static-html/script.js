// Remembers which steps are ticked, so that a reload does not lose them.

const list = document.querySelector("[data-checklist]");
const progress = document.querySelector("[data-progress]");

if (list && progress) keepTicks(list, progress);

function keepTicks(list, progress) {
  const boxes = [...list.querySelectorAll("input[type=checkbox]")];
  const key = list.dataset.checklist;
  const ticked = new Set(load(key));

  for (const box of boxes) box.checked = ticked.has(box.name);
  show(boxes, progress);

  list.addEventListener("change", () => {
    save(key, boxes.filter((box) => box.checked).map((box) => box.name));
    show(boxes, progress);
  });
}

function show(boxes, progress) {
  const done = boxes.filter((box) => box.checked).length;
  progress.textContent =
    done === boxes.length ? "All done. The page is yours." : `${done} of ${boxes.length} done`;
}

// Storage can be switched off, or hold something else: the page works without it.
function load(key) {
  try {
    const names = JSON.parse(localStorage.getItem(key));
    return Array.isArray(names) ? names : [];
  } catch {
    return [];
  }
}

function save(key, names) {
  try {
    localStorage.setItem(key, JSON.stringify(names));
  } catch {
    // Nothing to do: the ticks last until the next reload.
  }
}
