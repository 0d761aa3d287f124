import "./style.css";
import { mountCounter } from "./counter.js";

const root = document.querySelector("#counter");
const counter = mountCounter(root, import.meta.hot?.data.count);

// A saved script runs again in the open page, so the count is handed on. Builds leave this out.
if (import.meta.hot) {
  import.meta.hot.dispose((data) => {
    data.count = counter.count();
  });
  import.meta.hot.accept();
}
