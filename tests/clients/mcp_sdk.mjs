// The TypeScript MCP SDK's client as its users call it. Its arguments: where the packages are, where the server is, and
// what to call.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, url, ...what] = process.argv.slice(2);
const sdk = join(packages, "@modelcontextprotocol/sdk/dist/esm/client");
const from = (file) => import(pathToFileURL(join(sdk, file)));
const { Client } = await from("index.js");
const { StreamableHTTPClientTransport } = await from("streamableHttp.js");

const client = new Client({ name: "tester", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
for (const call of what) {
  try {
    if (call === "list") {
      console.log((await client.listTools()).tools.map((tool) => tool.name).sort().join(" "));
    } else if (call === "resource") {
      const { resources } = await client.listResources();
      console.log(resources.length > 0);
    } else {
      const [name, args] = [call.split("=")[0], JSON.parse(call.slice(call.indexOf("=") + 1))];
      const events = [];
      const onprogress = (progress) => events.push(progress.progress);
      const result = await client.callTool({ name, arguments: args }, undefined, { onprogress });
      console.log(name, result.isError === true, result.content[0].text, events.join(","));
    }
  } catch (error) {
    console.log(error.constructor.name, error.code, error.message);
  }
}
await client.close();
