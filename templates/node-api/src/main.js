// Where the program starts: environment in, server out. Nothing else reads the environment.
import { createServer } from "node:http";
import { createApp } from "./app.js";
import { Shelf } from "./shelf.js";

const host = process.env.HOST ?? "127.0.0.1";
const port = Number(process.env.PORT ?? 3000);

const server = createServer(createApp(new Shelf()));
server.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
server.listen(port, host, () => console.log(`listening on http://${host}:${port}`));

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
}
