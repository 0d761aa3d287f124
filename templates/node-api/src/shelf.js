// The books, kept in memory: a restart begins anew. Put a database behind the same four methods when you need one.
import { Refusal } from "./http.js";

const TEXT_LENGTH = 200;

/** @typedef {{ title: string, author: string, year: number }} NewBook */
/** @typedef {NewBook & { id: string }} Book */

/** @type {NewBook[]} */
const FIRST_BOOKS = [
  { title: "Frankenstein", author: "Mary Shelley", year: 1818 },
  { title: "Middlemarch", author: "George Eliot", year: 1871 },
  { title: "Walden", author: "Henry David Thoreau", year: 1854 },
];

export class Shelf {
  /** @type {Map<string, Book>} */
  #books = new Map();
  #lastId = 0;

  constructor(books = FIRST_BOOKS) {
    for (const book of books) this.add(book);
  }

  /** All books whose title or author has `text` in it, in the order they came. */
  list(text = "") {
    const wanted = text.toLowerCase();
    return [...this.#books.values()].filter(({ title, author }) =>
      `${title}\n${author}`.toLowerCase().includes(wanted),
    );
  }

  /** @param {string} id */
  get(id) {
    return this.#books.get(id);
  }

  /** @param {NewBook} book @returns {Book} */
  add(book) {
    this.#lastId += 1;
    const added = { id: String(this.#lastId), ...book };
    this.#books.set(added.id, added);
    return added;
  }

  /** The book that was removed. @param {string} id */
  remove(id) {
    const book = this.#books.get(id);
    this.#books.delete(id);
    return book;
  }
}

/**
 * What somebody sent, as a book. Throws a Refusal that names the first field which is wrong.
 * @param {unknown} value
 * @returns {NewBook}
 */
export function checkedBook(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Refusal(400, "A book is an object with title, author and year.");
  }
  const { title, author, year, ...others } = /** @type {Record<string, unknown>} */ (value);
  for (const name of Object.keys(others)) throw new Refusal(400, `A book has no ${name}.`);
  return { title: checkedText("title", title), author: checkedText("author", author), year: checkedYear(year) };
}

/** @param {string} name @param {unknown} value */
function checkedText(name, value) {
  const text = typeof value === "string" ? value.trim() : "";
  if (text === "" || text.length > TEXT_LENGTH) {
    throw new Refusal(400, `A book needs its ${name}: a text of 1 to ${TEXT_LENGTH} characters.`);
  }
  return text;
}

/** @param {unknown} value */
function checkedYear(value) {
  if (typeof value !== "number" || !Number.isInteger(value) || value < -3000 || value > 3000) {
    throw new Refusal(400, "A book needs its year: a whole number.");
  }
  return value;
}
