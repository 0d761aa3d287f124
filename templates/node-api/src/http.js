// What every route needs of HTTP: a body in, an answer out, a refusal with its status.

const BODY_BYTES = 64 * 1024;

/** A request that is not granted. Its message is sent, so it says what would be right. */
export class Refusal extends Error {
  /** @param {number} status @param {string} message @param {Record<string, string>} headers */
  constructor(status, message, headers = {}) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

/**
 * The body as a value.
 * @param {import("node:http").IncomingMessage} request
 * @returns {Promise<unknown>}
 */
export async function readJson(request) {
  if (!/^application\/json\b/i.test(request.headers["content-type"] ?? "")) {
    throw new Refusal(415, "Send JSON, with the header Content-Type: application/json.");
  }
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    // The rest is not read: the connection closes with the answer.
    if (size > BODY_BYTES) throw new Refusal(413, `A body has at most ${BODY_BYTES} bytes.`, { Connection: "close" });
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw new Refusal(400, "The body is not valid JSON.");
  }
}

/** @param {import("node:http").ServerResponse} response @param {number} status @param {unknown} value */
export function sendJson(response, status, value, headers = {}) {
  const body = Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
  response.writeHead(status, {
    "Content-Type": "application/json; charset=utf-8",
    "Content-Length": body.length,
    ...headers,
  });
  response.end(body);
}

/** @param {import("node:http").ServerResponse} response @param {Buffer} body */
export function sendPage(response, body) {
  response.writeHead(200, { "Content-Type": "text/html; charset=utf-8", "Content-Length": body.length });
  response.end(body);
}
