// OpenAI's own SDK for Node: responses, streams, parsing, chains, forced tools, stored items, errors, cancelling.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { BASE_URL, CHAT_MODEL: model } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "any", maxRetries: 0 });
const input = "Tell me about the weather in Paris.";
const City = z.object({ city: z.enum(["Paris", "Rome"]), degrees: z.number().int() });
const asked = { model, input, temperature: 0, max_output_tokens: 15 };

const { data: whole, request_id } = await client.responses.create(asked).withResponse();
assert.ok(request_id);
assert.equal(whole.incomplete_details.reason, "max_output_tokens");
let text = "";
for await (const event of await client.responses.create({ ...asked, stream: true })) {
  if (event.type === "response.output_text.delta") text += event.delta;
}
assert.equal(text, whole.output_text);

const helper = client.responses.stream({ ...asked, max_output_tokens: 400, stop: [",", "."] });
const deltas = [];
helper.on("response.output_text.delta", (event) => deltas.push(event.delta));
assert.equal((await helper.finalResponse()).output_text, deltas.join(""));

const parsed = await client.responses.parse({
  ...asked,
  max_output_tokens: 200,
  text: { format: zodTextFormat(City, "city") },
});
assert.ok(["Paris", "Rome"].includes(parsed.output_parsed.city));

const tool = zodResponsesFunction({ name: "get_weather", parameters: City });
const forced = { ...asked, max_output_tokens: 100, tools: [tool], tool_choice: "required" };
const made = await client.responses.parse(forced);
const call = made.output.find((item) => item.type === "function_call");
assert.ok(["Paris", "Rome"].includes(call.parsed_arguments.city));
const streamed = await client.responses.stream(forced).finalResponse();
assert.equal(streamed.output.find((item) => item.type === "function_call").arguments, call.arguments);
const output = { type: "function_call_output", call_id: call.call_id, output: "18 degrees" };
const next = await client.responses.create({
  ...asked,
  tools: [tool],
  tool_choice: "none",
  previous_response_id: made.id,
  input: [output],
});
const items = [];
for await (const item of client.responses.inputItems.list(next.id, { limit: 2, order: "asc" })) items.push(item.type);
assert.deepEqual(items, ["message", "function_call", "function_call_output"]);
assert.equal((await client.responses.retrieve(next.id)).id, next.id);
await client.responses.delete(made.id);
await assert.rejects(client.responses.retrieve(made.id), { status: 404 });
await assert.rejects(client.responses.create({ ...asked, previous_response_id: next.id }), {
  status: 400,
  code: "previous_response_not_found",
});
await assert.rejects(client.responses.create({ ...asked, temperature: 9 }), { status: 400, param: "temperature" });
assert.equal((await client.responses.inputTokens.count({ model, input })).input_tokens, whole.usage.input_tokens);

const left = await client.responses.create({ ...asked, max_output_tokens: 500, stream: true });
for await (const _ of left) break; // the SDK closes the connection
