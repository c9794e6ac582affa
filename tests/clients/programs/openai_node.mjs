// OpenAI's own SDK for Node: chat, streams, parsing, forced tools, vectors, errors, cancelling.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const { BASE_URL, CHAT_MODEL: model, EMBEDDING_MODEL } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me about the weather in Paris." }];
const City = z.object({ city: z.enum(["Paris", "Rome"]), degrees: z.number().int() });
const parameters = { type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"] };
const tool = { type: "function", function: { name: "get_weather", parameters } };

const asked = { model, messages, temperature: 0, max_tokens: 15 };
const { data: whole, request_id } = await client.chat.completions.create(asked).withResponse();
assert.ok(request_id);
let text = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  text += chunk.choices[0].delta.content ?? "";
}
assert.equal(text, whole.choices[0].message.content);

const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
assert.equal(await stream.finalContent(), text);
assert.equal((await stream.totalUsage()).completion_tokens, whole.usage.completion_tokens);

const response_format = zodResponseFormat(City, "city");
const parsed = await client.chat.completions.parse({ ...asked, max_tokens: 200, response_format });
assert.ok(["Paris", "Rome"].includes(parsed.choices[0].message.parsed.city));

const forced = { ...asked, max_tokens: 100, tools: [tool], tool_choice: "required" };
const call = (await client.chat.completions.create(forced)).choices[0].message.tool_calls[0];
const streamed = await client.chat.completions.stream(forced).finalMessage();
assert.deepEqual(JSON.parse(streamed.tool_calls[0].function.arguments), JSON.parse(call.function.arguments));

const runner = client.chat.completions.runTools({
  ...asked,
  tool_choice: { type: "function", function: { name: "get_weather" } },
  max_tokens: 100,
  tools: [{ type: "function", function: { ...tool.function, parse: JSON.parse, function: () => "Sunny." } }],
});
assert.equal(await runner.finalFunctionToolCallResult(), "Sunny.");

const input = ["a", "b"];
const vectors = (await client.embeddings.create({ model: EMBEDDING_MODEL, input })).data;
const floats = (await client.embeddings.create({ model: EMBEDDING_MODEL, input, encoding_format: "float" })).data;
vectors.forEach((v, i) => v.embedding.forEach((x, j) => assert.ok(Math.abs(x - floats[i].embedding[j]) < 1e-6)));

assert.ok((await client.completions.create({ model, prompt: "One, two,", max_tokens: 3 })).choices[0].text);
assert.equal((await client.models.retrieve(model)).id, model);
await assert.rejects(client.chat.completions.create({ model: "none", messages }), { status: 404, code: "model_not_found" });
await assert.rejects(client.chat.completions.create({ model, messages, temperature: 9 }), {
  status: 400,
  param: "temperature",
});

const left = await client.chat.completions.create({ model, messages, max_tokens: 500, stream: true });
for await (const _ of left) break; // the SDK closes the connection
