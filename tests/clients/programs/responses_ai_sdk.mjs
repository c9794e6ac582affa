// The Vercel AI SDK by its default provider, which speaks responses, and by the one for Open Responses: two turns each.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const { BASE_URL: baseURL, CHAT_MODEL } = process.env;
const openai = createOpenAI({ baseURL, apiKey: "any" });
const open = createOpenResponses({ name: "lantern", url: `${baseURL}/responses`, apiKey: "any" });
const City = z.object({ city: z.enum(["Paris", "Rome"]), degrees: z.number().int() });
const weather = tool({ description: "The weather of a city", inputSchema: City, execute: async () => "Sunny." });

for (const [name, provider] of Object.entries({ openai, open })) {
  const rest = { model: provider(CHAT_MODEL), temperature: 0, maxOutputTokens: 15, maxRetries: 0 };
  const asked = { ...rest, prompt: "Tell me about the weather in Paris." };
  const whole = await generateText(asked);
  assert.equal(whole.finishReason, "length", name);
  assert.equal(whole.usage.outputTokens, 15, name);
  const stream = streamText(asked);
  let text = "";
  for await (const part of stream.fullStream) {
    assert.notEqual(part.type, "error", `${name}: ${part.error}`);
    if (part.type === "text-delta") text += part.text;
  }
  assert.equal(text, whole.text, name);
  assert.equal((await stream.usage).outputTokens, 15, name);

  const first = { role: "user", content: asked.prompt };
  const answered = await stream.response;
  const messages = [first, ...answered.messages, { role: "user", content: "And in Rome?" }];
  const second = await generateText({ ...rest, messages }); // the default provider sends item references
  assert.ok(second.usage.inputTokens > whole.usage.inputTokens + 15, name);

  const long = { ...asked, maxOutputTokens: 200 };
  const typed = await generateText({ ...long, output: Output.object({ schema: City }) });
  assert.ok(["Paris", "Rome"].includes(typed.output.city), name);
  const called = await generateText({ ...long, tools: { weather }, toolChoice: "required", stopWhen: stepCountIs(2) });
  assert.equal(called.steps[0].finishReason, "tool-calls", name);
  assert.equal(called.steps[0].toolResults[0].output, "Sunny.", name);
  assert.equal(called.steps.length, 2, name); // the result went back to the model
  const streamed = streamText({ ...long, tools: { weather }, toolChoice: { type: "tool", toolName: "weather" } });
  assert.deepEqual((await streamed.toolCalls)[0].input, called.steps[0].toolCalls[0].input, name);

  await assert.rejects(generateText({ ...asked, model: provider("none") }), (err) => {
    assert.ok(APICallError.isInstance(err), name);
    assert.equal(err.statusCode, 404, name);
    assert.equal(err.isRetryable, false, name);
    return true;
  });
}
