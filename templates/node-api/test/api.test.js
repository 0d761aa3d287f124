import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { createApp, matched } from "../src/app.js";
import { Shelf } from "../src/shelf.js";

const EMMA = { title: "Emma", author: "Jane Austen", year: 1815 };

/** A server with books of its own, for one test. */
async function serving(t, books = [EMMA]) {
  const server = createServer(createApp(new Shelf(books))).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const base = `http://127.0.0.1:${server.address().port}`;
  return (path, options = {}) => fetch(base + path, { ...options, headers: { connection: "close", ...options.headers } });
}

function posted(body, type = "application/json") {
  return { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body), headers: { "content-type": type } };
}

test("health says ok", async (t) => {
  const ask = await serving(t);
  const response = await ask("/health");
  assert.equal(response.status, 200);
  assert.equal((await response.json()).status, "ok");
});

test("the first page is a page", async (t) => {
  const ask = await serving(t);
  const response = await ask("/");
  assert.match(response.headers.get("content-type"), /^text\/html/);
  assert.match(await response.text(), /<h1/);
});

test("a book that was added is on the shelf, at the address it was given", async (t) => {
  const ask = await serving(t, []);
  const added = await ask("/books", posted(EMMA));
  assert.equal(added.status, 201);
  const address = added.headers.get("location");
  assert.deepEqual(await (await ask(address)).json(), { id: "1", ...EMMA });
  assert.deepEqual(await (await ask("/books")).json(), [{ id: "1", ...EMMA }]);
});

test("books are found by a part of their title or author, in any case", async (t) => {
  const ask = await serving(t, [EMMA, { title: "Walden", author: "Henry David Thoreau", year: 1854 }]);
  const titles = async (q) => (await (await ask(`/books?q=${q}`)).json()).map((book) => book.title);
  assert.deepEqual(await titles("AUSTEN"), ["Emma"]);
  assert.deepEqual(await titles("wald"), ["Walden"]);
  assert.deepEqual(await titles("nobody"), []);
});

test("a book that was removed is gone", async (t) => {
  const ask = await serving(t);
  assert.equal((await ask("/books/1", { method: "DELETE" })).status, 204);
  assert.equal((await ask("/books/1")).status, 404);
  assert.equal((await ask("/books/1", { method: "DELETE" })).status, 404);
});

test("what is no book is refused, and the answer names the field", async (t) => {
  const ask = await serving(t, []);
  for (const [body, named] of [
    [{ ...EMMA, title: " " }, /title/],
    [{ ...EMMA, author: 7 }, /author/],
    [{ ...EMMA, year: "1815" }, /year/],
    [{ ...EMMA, pages: 400 }, /no pages/],
    [[], /object/],
    ["{", /JSON/],
  ]) {
    const response = await ask("/books", posted(body));
    assert.equal(response.status, 400);
    assert.match((await response.json()).error, named);
  }
  assert.deepEqual(await (await ask("/books")).json(), []);
});

test("other types, long bodies, other methods and other paths are refused by their status", async (t) => {
  const ask = await serving(t);
  assert.equal((await ask("/books", posted("x", "text/plain"))).status, 415);
  assert.equal((await ask("/books", posted("x".repeat(70_000)))).status, 413);
  assert.equal((await ask("/nowhere")).status, 404);
  const refused = await ask("/books", { method: "PUT" });
  assert.equal(refused.status, 405);
  assert.equal(refused.headers.get("allow"), "GET, POST");
});

test("HEAD is answered like GET, without a body", async (t) => {
  const ask = await serving(t);
  const response = await ask("/books", { method: "HEAD" });
  assert.equal(response.status, 200);
  assert.equal(await response.text(), "");
});

test("paths match part by part", () => {
  assert.deepEqual(matched("/books/:id", "/books/7"), { id: "7" });
  assert.equal(matched("/books/:id", "/books/"), null);
  assert.equal(matched("/books/:id", "/books/7/pages"), null);
});
