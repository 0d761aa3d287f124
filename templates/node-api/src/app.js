// The API as a table: what is asked, and who answers. Everything about HTTP itself is in http.js.
import { readFile } from "node:fs/promises";
import { Refusal, readJson, sendJson, sendPage } from "./http.js";
import { checkedBook } from "./shelf.js";

const PAGE = new URL("../public/index.html", import.meta.url);

/**
 * @typedef {import("node:http").IncomingMessage} Request
 * @typedef {import("node:http").ServerResponse} Response
 * @typedef {(context: { request: Request, response: Response, url: URL, params: Record<string, string> }) => unknown} Handler
 */

/**
 * What answers every request, over one shelf of books.
 * @param {import("./shelf.js").Shelf} shelf
 */
export function createApp(shelf) {
  const startedAt = Date.now();

  /** @type {[method: string, path: string, handler: Handler][]} */
  const routes = [
    ["GET", "/", async ({ response }) => sendPage(response, await readFile(PAGE))],
    [
      "GET",
      "/health",
      ({ response }) =>
        sendJson(response, 200, { status: "ok", uptimeSeconds: Math.round((Date.now() - startedAt) / 1000) }),
    ],
    ["GET", "/books", ({ response, url }) => sendJson(response, 200, shelf.list(url.searchParams.get("q") ?? ""))],
    [
      "POST",
      "/books",
      async ({ request, response }) => {
        const book = shelf.add(checkedBook(await readJson(request)));
        sendJson(response, 201, book, { Location: `/books/${book.id}` });
      },
    ],
    ["GET", "/books/:id", ({ response, params }) => sendJson(response, 200, found(shelf.get(params.id), params.id))],
    [
      "DELETE",
      "/books/:id",
      ({ response, params }) => {
        found(shelf.remove(params.id), params.id);
        response.writeHead(204).end();
      },
    ],
  ];

  /** @param {Request} request @param {Response} response */
  return async (request, response) => {
    try {
      await answer(routes, request, response);
    } catch (error) {
      if (!(error instanceof Refusal)) console.error(error);
      const refusal = error instanceof Refusal ? error : new Refusal(500, "Something went wrong here.");
      if (response.headersSent) response.destroy();
      else sendJson(response, refusal.status, { error: refusal.message }, refusal.headers);
    }
  };
}

/** @param {[string, string, Handler][]} routes @param {Request} request @param {Response} response */
async function answer(routes, request, response) {
  const url = asked(request);
  const here = routes
    .map(([method, path, handler]) => ({ method, handler, params: matched(path, url.pathname) }))
    .filter((route) => route.params !== null);
  if (here.length === 0) throw new Refusal(404, `There is nothing at ${url.pathname}.`);

  const method = request.method === "HEAD" ? "GET" : request.method;
  const route = here.find((each) => each.method === method);
  if (!route) {
    const allowed = here.map((each) => each.method).join(", ");
    throw new Refusal(405, `${url.pathname} takes ${allowed}.`, { Allow: allowed });
  }
  await route.handler({ request, response, url, params: route.params ?? {} });
}

/** @param {Request} request */
function asked(request) {
  try {
    return new URL(`http://localhost${request.url}`);
  } catch {
    throw new Refusal(400, "The address is not valid.");
  }
}

/**
 * The named parts of `actual`, or null when it is another path.
 * `matched("/books/:id", "/books/7")` is `{ id: "7" }`.
 * @param {string} path @param {string} actual
 */
export function matched(path, actual) {
  const wanted = path.split("/");
  const given = actual.split("/");
  if (wanted.length !== given.length) return null;
  /** @type {Record<string, string>} */
  const params = {};
  for (const [index, part] of wanted.entries()) {
    if (part.startsWith(":") && given[index] !== "") params[part.slice(1)] = given[index];
    else if (part !== given[index]) return null;
  }
  return params;
}

/** @template Book @param {Book | undefined} book @param {string} id @returns {Book} */
function found(book, id) {
  if (book === undefined) throw new Refusal(404, `There is no book ${id}.`);
  return book;
}
