// Ends TLS in front of a server that speaks in the clear. Its arguments: where it listens, the server's port, and the
// files of its certificate and key.
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { createServer } from "node:tls";

const [port, behind, cert, key] = process.argv.slice(2);
const options = { cert: readFileSync(cert), key: readFileSync(key), ALPNProtocols: ["http/1.1"] };
const front = createServer(options, (client) => {
  const server = connect({ port: Number(behind), host: "127.0.0.1" });
  for (const [from, to] of [[client, server], [server, client]]) {
    from.on("error", () => to.destroy());
    from.pipe(to);
  }
});
front.listen(Number(port), "::", () => console.log("serving"));
