// What a TypeScript backend writes; it must compile as it stands, and the marked lines must not.
import type { CommandAnswer, ErrorCode, OperationName, Operations, ReplyFrame, RequestFrame } from "./workspace";

const frame: RequestFrame<"command"> = { id: "1", op: "command", params: { argv: ["true"], timeoutMs: 1000 } };
const cancel: RequestFrame = { id: "1", op: "cancel" };

function told(reply: ReplyFrame<"command">): CommandAnswer | undefined {
  if ("event" in reply && reply.event.type === "stdout") console.log(reply.event.offset, reply.event.data);
  if ("error" in reply) throw new Error(`${reply.error.code}: ${reply.error.message}`);
  return "result" in reply ? reply.result : undefined;
}

async function ask<Name extends OperationName>(
  name: Name,
  request: Operations[Name]["request"],
): Promise<Operations[Name]["answer"]> {
  const response = await fetch(`http://127.0.0.1:3001/v1/${name}`, { method: "POST", body: JSON.stringify(request) });
  return response.json();
}

export async function size(): Promise<number> {
  const answer = await ask("stat", { path: "package.json" });
  return answer.size;
}

export const code: ErrorCode = "not_found";
// @ts-expect-error: no such operation
ask("serch", { pattern: "x" });
// @ts-expect-error: a field that the request does not have
ask("read", { path: "a", paht: "b" });
// @ts-expect-error: a path is needed
ask("read", {});
export { cancel, frame, told };
