// One session of a TypeScript client, as run.py asks for it: lists the tools, makes the calls, prints what came back.

const task = JSON.parse(process.argv[2]);

// Two packages, one shape: `sdk` 1.x speaks the handshake only, `client` 2.x takes a mode.
async function load() {
  if (task.kind === "new") {
    const { Client, StreamableHTTPClientTransport } = await import(task.package + "/dist/index.mjs");
    const { StdioClientTransport } = await import(task.package + "/dist/stdio.mjs");
    return { Client, StreamableHTTPClientTransport, StdioClientTransport };
  }
  const at = (path) => import(task.package + "/dist/esm/client/" + path);
  return { ...(await at("index.js")), ...(await at("streamableHttp.js")), ...(await at("stdio.js")) };
}

const { Client, StreamableHTTPClientTransport, StdioClientTransport } = await load();
const options = task.mode === "legacy" ? {} : { versionNegotiation: { mode: task.mode === "auto" ? "auto" : { pin: task.mode } } };
const client = new Client({ name: "clients", version: "1" }, options);
const [command, ...args] = task.command?.argv ?? [];
const transport = task.url
  ? new StreamableHTTPClientTransport(new URL(task.url))
  : new StdioClientTransport({ command, args, env: task.command.env, cwd: task.command.cwd });
await client.connect(transport);
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const texts = [];
for (const [name, args] of task.calls) {
  const result = await client.callTool({ name, arguments: args });
  texts.push([result.isError === true, result.content.map((block) => block.text)]);
}
await client.close();
console.log(JSON.stringify({ tools, texts }));
