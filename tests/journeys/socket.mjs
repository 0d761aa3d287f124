// A foreign client of the WebSocket door: one frame in, every reply printed, the last one ends it.
import { WebSocket } from "ws";

const [url, token, op, params] = process.argv.slice(2);
const socket = new WebSocket(url, ["workspace.v1+json"], { headers: { Authorization: `Bearer ${token}` } });
socket.on("open", () => socket.send(JSON.stringify({ id: "1", op, params: JSON.parse(params) })));
socket.on("message", (data) => {
  const reply = JSON.parse(data);
  console.log(JSON.stringify(reply));
  if ("result" in reply || "error" in reply) socket.close();
});
socket.on("error", (error) => {
  console.error(String(error));
  process.exit(1);
});
