"""The settings of the appliance by section, each with its bounds, its default and its purpose; frozen."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


_APPLICATION_SCHEMES = "app|tauri|capacitor|ionic|chrome-extension|moz-extension|safari-web-extension|vscode-webview"
_ORIGIN = rf"^(\*|(https?|{_APPLICATION_SCHEMES})://[^/\s]+/?)$"


class ServerConfig(_Section):
    """The server's addresses, keys and limits."""

    host: Annotated[str, Field(description="Address to listen on; 0.0.0.0 or :: for the network.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port of plain HTTP; 0 takes any free one.")] = 8080
    http: Annotated[bool, Field(description="Whether plain HTTP is served at all; false needs tls.enabled.")] = True
    keys: Annotated[
        list[Annotated[str, Field(min_length=8, pattern=r"^[\x21-\x7e]+$")]],
        Field(description="Accepted keys, beside those of `lantern keys create`."),
    ] = []
    allow_open: Annotated[bool, Field(description="Whether the network may use the server without any key.")] = False
    claimable: Annotated[
        bool, Field(description="Whether a device without any key waits for `lantern claim`, and serves nobody before.")
    ] = False
    claim: Annotated[
        Literal["code", "first"],
        Field(description="Claims from other machines need the code that the device shows, or the first one wins."),
    ] = "code"
    claim_code: Annotated[
        str,
        Field(
            pattern=r"^(([- ]*[0-9A-Za-z]){8,64}[- ]*)?$",
            description="A code of your own, at least 8 letters and digits; empty: made at the first start.",
        ),
    ] = ""
    claim_file: Annotated[
        str, Field(description="A file, such as one on the boot partition, that opens claiming once more.")
    ] = ""
    plain_administration: Annotated[
        bool, Field(description="Whether other machines may claim and administer over plain HTTP, readable by others.")
    ] = False
    host_names: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(description="More names under which clients address this server, in their Host header."),
    ] = []
    cors_origins: Annotated[
        list[Annotated[str, Field(pattern=_ORIGIN)]],
        Field(
            description="Origins whose pages may use the server: of a browser, or of an application such as "
            '"app://obsidian.md" or "vscode-webview://*"; "*" stands for all.'
        ),
    ] = []
    max_body_mib: Annotated[int, Field(ge=1, le=256, description="Largest request body.")] = 16
    max_connections: Annotated[int, Field(ge=8, le=65536, description="Connections at once.")] = 512
    max_connections_per_address: Annotated[int, Field(ge=1, le=65536, description="Of those, from one address.")] = 256
    max_choices: Annotated[int, Field(ge=1, le=128, description="Answers to one request (n, best_of).")] = 8
    max_wait_s: Annotated[
        float, Field(gt=0, le=3600, description="Seconds without a slot before the answer is 503.")
    ] = 30.0
    drain_s: Annotated[float, Field(ge=0, le=600, description="Seconds that running answers have at a stop.")] = 30.0


class TlsConfig(_Section):
    """HTTPS, with a certificate of the device's own or of yours; `lantern fingerprint` shows the pin."""

    enabled: Annotated[bool, Field(description="Whether HTTPS is served.")] = False
    port: Annotated[int, Field(ge=0, le=65535, description="Its port; 0 takes any free one.")] = 8443
    certificate: Annotated[
        str,
        Field(description="PEM file with your certificate chain, read again on changes; empty: made at first start."),
    ] = ""
    key: Annotated[str, Field(description="PEM file with its private key.")] = ""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key are given together or not at all")
        return self


class EngineConfig(_Section):
    """The execution of models."""

    slots: Annotated[int, Field(ge=1, le=64, description="Requests that run at once.")] = 4
    context_length: Annotated[int, Field(ge=64, le=131072, description="Tokens of one conversation.")] = 2048
    threads: Annotated[int, Field(ge=0, le=256, description="Threads of a model; 0: as proved fastest here.")] = 0
    spinning: Annotated[
        bool | Literal["auto"],
        Field(
            description="Keep threads awake between operators: faster on idle cores, slow beside other work; "
            "auto: as proved faster here."
        ),
    ] = "auto"
    kv_cache: Annotated[
        Literal["auto", "float32", "int8"],
        Field(description="Type of keys and values; auto: int8 for models made for it where memory is short."),
    ] = "auto"
    fast_prompts: Annotated[
        bool,
        Field(
            description="Read prompts with int8 weights of their own where that is faster here and memory allows it; "
            "false: with the very weights that answer."
        ),
    ] = True
    kernels: Annotated[
        bool,
        Field(
            description="Multiply quantized weights with Lantern's own kernels where their library was built and they "
            "are faster here; false: with onnxruntime's operators."
        ),
    ] = True
    device: Annotated[
        Literal["auto", "cpu"],
        Field(description="Where models run; auto: on a GPU that computes what the processor does, sooner."),
    ] = "auto"
    checkpoints_mib: Annotated[
        int,
        Field(
            ge=0,
            le=65536,
            description="Most memory for states within prompts, from which later turns start; only models with "
            "recurrent layers take it, for each of them.",
        ),
    ] = 256
    queue: Annotated[int, Field(ge=0, le=1024, description="Requests that wait beyond the slots.")] = 32


class ModelsConfig(_Section):
    """Models in memory, and aliases: `aliases = { "gpt-4o-mini" = "smollm2-135m-instruct" }`."""

    aliases: Annotated[dict[str, str], Field(description="Name that clients ask for = name of the model.")] = {}
    preload: Annotated[
        list[str], Field(description='Models to load at start, others when asked for; "*": all that fit.')
    ] = ["*"]
    memory_mib: Annotated[
        int, Field(ge=0, le=1 << 20, description="Memory for all loaded models; 0: what is free at start.")
    ] = 0
    keep_alive_s: Annotated[
        float, Field(ge=0, description="Idle seconds before a model is unloaded; 0: when others need the memory.")
    ] = 0.0
    keep_alive_of_s: Annotated[
        dict[str, Annotated[float, Field(ge=0)]], Field(description="The same for single models, by name.")
    ] = {}
    conversations_mib: Annotated[
        int,
        Field(
            ge=0,
            le=1 << 20,
            description="Most disk for what models remember of idle conversations, which then go on after an unload or "
            "a restart without their prompts being read again; unencrypted. 0: none, and what is there is removed.",
        ),
    ] = 0


class ResponsesConfig(_Section):
    """Responses and conversations that are stored, so that the next request can continue them."""

    store: Annotated[
        Literal["memory", "disk", "off"],
        Field(
            description="Where responses are stored: memory, until the next restart; disk, in memory and in a file, "
            "unencrypted; off, nowhere, whatever is asked for. Any value but disk removes that file at the next start."
        ),
    ] = "memory"
    max_mib: Annotated[
        int, Field(ge=1, le=65536, description="Most memory of stored responses, and about as much of the disk.")
    ] = 64


class EmbeddingsConfig(_Section):
    """Embeddings."""

    token_ids: Annotated[
        Literal["cl100k", "own", "refuse"],
        Field(description="Arrays of tokens in requests: OpenAI's cl100k_base, as LangChain sends; the model's own."),
    ] = "cl100k"  # noqa: S105  # no secret
    token_table: Annotated[
        str,
        Field(
            description="File cl100k_base.tiktoken; empty: the one that comes with Lantern, or that of another package."
        ),
    ] = ""


class DiscoveryConfig(_Section):
    """Announcing the device on the local network."""

    announce: Annotated[bool, Field(description="Announce by DNS-SD.")] = False
    name: Annotated[str, Field(max_length=56, description="The name to announce; empty: lantern-ID.")] = ""
    alias: Annotated[
        str,
        Field(
            pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
            description="A short host name, held as NAME.local while no other host has it; empty: none.",
        ),
    ] = "lantern"


class LogConfig(_Section):
    """The log; it never holds content, at any level."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="The least that is written.")] = (
        "INFO"
    )
    style: Annotated[
        Literal["auto", "text", "json"], Field(description="auto: json for the journal, text elsewhere.")
    ] = "auto"


class Config(_Section):
    """All settings."""

    server: ServerConfig = ServerConfig()
    tls: TlsConfig = TlsConfig()
    engine: EngineConfig = EngineConfig()
    models: ModelsConfig = ModelsConfig()
    responses: ResponsesConfig = ResponsesConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _listens_somewhere(self) -> Self:
        if not (self.server.http or self.tls.enabled):
            raise ValueError("server.http is false and tls.enabled too, so nobody could connect; set one of them")
        return self
