/** Programs that use this device, as text to copy: each is run by a test as it is shown. */

/**
 * @typedef {{name: string, language: string, text: string, help?: string}} Snippet
 * @typedef {{base: string, key: string, chat: string, isTls: boolean}} Facts
 */

/** Return the commands that save the certificate as lantern.pem, and show its fingerprint. @param {string} base */
export function saveCertificate(base) {
  const { hostname, port } = new URL(base);
  return `openssl s_client -connect ${hostname}:${port || 443} </dev/null 2>/dev/null | openssl x509 -out lantern.pem
openssl x509 -in lantern.pem -noout -fingerprint -sha256`;
}

/** Return the snippets. @param {Facts} facts @param {Record<string, string>} say @returns {Snippet[]} */
export function snippets({ base, key, chat, isTls }, say) {
  const python = isTls ? "SSL_CERT_FILE=lantern.pem " : "", node = isTls ? "NODE_EXTRA_CA_CERTS=lantern.pem " : "";
  return [
    { name: "Python", language: "python", help: `pip install openai; ${python}python program.py`, text: `from openai import OpenAI

client = OpenAI(
    base_url="${base}",
    api_key="${key}",
)
answer = client.chat.completions.create(
    model="${chat}",
    messages=[{"role": "user", "content": "Say hello."}],
)
print(answer.choices[0].message.content)` },
    { name: "Node", language: "javascript", help: `npm install openai; ${node}node program.mjs`, text: `import OpenAI from "openai";

const client = new OpenAI({
  baseURL: "${base}",
  apiKey: "${key}",
});
const answer = await client.chat.completions.create({
  model: "${chat}",
  messages: [{ role: "user", content: "Say hello." }],
});
console.log(answer.choices[0].message.content);` },
    { name: "curl", language: "sh", text: `curl ${isTls ? "--cacert lantern.pem " : ""}${base}/chat/completions \\
  -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${chat}",
       "messages": [{"role": "user", "content": "Say hello."}]}'` },
    { name: "LangChain", language: "python", help: `pip install langchain-openai; ${python}python program.py`, text: `from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url="${base}",
    api_key="${key}",
    model="${chat}",
)
print(model.invoke("Say hello.").content)` },
    { name: "Open WebUI", language: "sh", help: say.openWebUiHelp, text: `docker run -d --name open-webui -p 3000:8080 \\
  -e ENABLE_OLLAMA_API=false \\
  -e OPENAI_API_BASE_URL=${base} \\
  -e OPENAI_API_KEY=${key} \\${isTls ? `
  -e SSL_CERT_FILE=/lantern.pem -v ./lantern.pem:/lantern.pem:ro \\` : ""}
  -v open-webui:/app/backend/data \\
  ghcr.io/open-webui/open-webui:main` },
    { name: "Home Assistant", language: "llama_cpp", help: say.homeAssistantHelp, text: `URL: ${base}
API key: ${key}
Model: ${chat}` },
  ];
}
