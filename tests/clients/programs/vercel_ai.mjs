// The Vercel AI SDK over both of its providers: text, streams, objects, a forced tool, vectors, errors.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, streamText, tool } from "ai";
import { z } from "zod";

const { BASE_URL: baseURL, CHAT_MODEL, EMBEDDING_MODEL } = process.env;
const compatible = createOpenAICompatible({
  name: "lantern",
  baseURL,
  apiKey: "any",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: "any" });
const providers = {
  compatible: [compatible(CHAT_MODEL), compatible.textEmbeddingModel(EMBEDDING_MODEL), compatible("none")],
  openai: [openai.chat(CHAT_MODEL), openai.textEmbeddingModel(EMBEDDING_MODEL), openai.chat("none")],
};
const City = z.object({ city: z.enum(["Paris", "Rome"]), degrees: z.number().int() });
const weather = tool({ description: "The weather of a city", inputSchema: City, execute: async () => "Sunny." });

for (const [name, [model, encoder, missing]] of Object.entries(providers)) {
  const asked = { model, prompt: "Tell me about the weather in Paris.", temperature: 0, maxOutputTokens: 15, maxRetries: 0 };
  const whole = await generateText(asked);
  assert.equal(whole.finishReason, "length", name);
  assert.equal(whole.usage.outputTokens, 15, name);
  const stream = streamText(asked);
  let text = "";
  for await (const part of stream.textStream) text += part;
  assert.equal(text, whole.text, name);
  assert.equal((await stream.usage).outputTokens, 15, name);

  const long = { ...asked, maxOutputTokens: 200 };
  const typed = await generateText({ ...long, output: Output.object({ schema: City }) });
  assert.ok(["Paris", "Rome"].includes(typed.output.city), name);
  const called = await generateText({ ...long, tools: { weather }, toolChoice: "required" });
  assert.equal(called.finishReason, "tool-calls", name);
  assert.equal(called.toolResults[0].output, "Sunny.", name);
  const streamed = streamText({ ...long, tools: { weather }, toolChoice: { type: "tool", toolName: "weather" } });
  assert.deepEqual((await streamed.toolCalls)[0].input, called.toolCalls[0].input, name);

  const { embeddings } = await embedMany({ model: encoder, values: ["a", "b"], maxRetries: 0 });
  assert.equal(embeddings[1].length, 384, name);
  await assert.rejects(generateText({ ...asked, model: missing }), (err) => {
    assert.ok(APICallError.isInstance(err), name);
    assert.equal(err.statusCode, 404, name);
    assert.equal(err.isRetryable, false, name);
    return true;
  });
}
