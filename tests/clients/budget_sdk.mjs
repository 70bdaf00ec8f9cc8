// The providers' SDKs of Node, as `budget_sdk.py` calls those of Python. Its arguments: where the packages are, then
//
//     openai|responses|anthropic MODEL WORDS LIMIT plain|stream|patient COUNT [AT_ONCE]
//
// Each call prints a line: how many words came, why it ended, what its use is said to be; or the error that its user sees,
// and behind how many words. `patient` streams, and its line ends with `told` and `slept` for each time that its SDK tried
// again: in how many seconds it was to come, and after how many it did.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, api, model, count, limit, form, calls, atOnce = "1"] = process.argv.slice(2);
const from = (file) => import(pathToFileURL(join(packages, file)));
const { default: Sdk } = await from(api === "anthropic" ? "@anthropic-ai/sdk/index.mjs" : "openai/index.mjs");
const client = new Sdk({ apiKey: "any" });
const said = "one ".repeat(Number(count));
const messages = [{ role: "user", content: said }];
const limited = Number(limit);

const words = (text) => text.split(" ").filter((word) => word).length;

// `fetch` that notes what it was told when it was refused, and when it is called again after that.
function noting(waits) {
  let refused;
  return async (...asked) => {
    if (refused) {
      const seconds = (performance.now() - refused.at) / 1000;
      waits.push(` told ${refused.told} slept ${seconds.toFixed(1)}`);
    }
    const answer = await fetch(...asked);
    refused = answer.ok ? undefined : { told: answer.headers.get("retry-after"), at: performance.now() };
    return answer;
  };
}

// Each gives why it ended and what was used, and says what came as it comes: an error may be behind it.
const CALLS = {
  async openai(client, say) {
    const asked = { model, messages, max_tokens: limited };
    if (form === "plain") {
      const done = await client.chat.completions.create(asked);
      say(done.choices[0].message.content);
      return [done.choices[0].finish_reason, done.usage.completion_tokens];
    }
    let finish, used;
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
      for (const choice of chunk.choices) {
        say(choice.delta.content ?? "");
        finish = choice.finish_reason ?? finish;
      }
      used = chunk.usage?.completion_tokens ?? used;
    }
    return [finish, used];
  },

  async responses(client, say) {
    const asked = { model, input: said, max_output_tokens: limited };
    if (form === "plain") {
      const done = await client.responses.create(asked);
      say(done.output_text);
      return [done.status, done.usage.output_tokens];
    }
    let finish, used;
    for await (const event of await client.responses.create({ ...asked, stream: true })) {
      if (event.type === "response.output_text.delta") say(event.delta);
      if (event.type === "response.failed") finish = `failed ${event.response.error.message}`;
      if (event.type === "response.completed" || event.type === "response.incomplete") {
        [finish, used] = [event.response.status, event.response.usage.output_tokens];
      }
    }
    return [finish, used];
  },

  async anthropic(client, say) {
    const asked = { model, messages, max_tokens: limited };
    if (form === "plain") {
      const done = await client.messages.create(asked);
      say(done.content[0].text);
      return [done.stop_reason, done.usage.output_tokens];
    }
    const stream = client.messages.stream(asked);
    stream.on("text", say);
    const done = await stream.finalMessage();
    return [done.stop_reason, done.usage.output_tokens];
  },
};

async function call() {
  let text = "";
  const waits = [];
  const mine = form === "patient" ? client.withOptions({ fetch: noting(waits) }) : client;
  try {
    const [finish, used] = await CALLS[api](mine, (piece) => (text += piece));
    return `${words(text)} ${finish} ${used}${waits.join("")}`;
  } catch (error) {
    if (!(error instanceof Sdk.APIError)) throw error;
    return `${error.constructor.name} ${error.status ?? "-"} ${error.message} behind ${words(text)} words`;
  }
}

let left = Number(calls);
async function some() {
  while (left-- > 0) console.log((await call()).replaceAll("\n", " "));
}
await Promise.all(Array.from({ length: Number(atOnce) }, some));
