"""Make the golden home: run at commit 1c9e0b8 (0.1.0), by the code of that commit, `python make_0_1_0.py FOLDER`.

Leaves FOLDER/device, a device's LANTERN_HOME after a power cut; FOLDER/workstation, that of its owner; and
FOLDER/facts.json, the secrets and answers that a later version has to know and to repeat.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx2
from appliance.image.update_state import Step, UpdateState, keep
from appliance.updates import IncomingUpdate

from appliance.bundle.signing import public_pem
from tests.install.tiny_bundles import TinyDevice
from tests.quantize.tiny import write_decoder, write_encoder

PORT = 18443
URL = f"https://127.0.0.1:{PORT}"
CHAT = {"messages": [{"role": "user", "content": "The lantern on the shelf"}], "max_tokens": 16}
SETTINGS = f"""
[server]
host = "127.0.0.1"
port = 0
claimable = true
[tls]
enabled = true
port = {PORT}
[engine]
threads = 1
[models]
aliases = {{ "gpt-4o" = "tiny-chat" }}
[discovery]
name = "attic"
"""
TEXTS = ["The lantern on the shelf", "light the house"]


def main(folder: Path) -> None:
    """Play a device's first weeks."""
    device, workstation = folder / "device", folder / "workstation"
    device.mkdir(parents=True)
    (device / "lantern.toml").write_text(SETTINGS)
    made = folder / "made"
    write_decoder(made / "chat", "llama")
    write_encoder(made / "embed")
    for kind in ("chat", "embed"):
        to = ("--name", f"tiny-{kind}", "--license", "MIT", "--out", made / "out", "--force")
        run(device, "quantize", "build", made / kind, *to)
        run(device, "appliance", "models", "install", made / "out" / f"tiny-{kind}")
    words = TinyDevice(made / "words")
    signer = made / "words.pub"
    signer.write_bytes(public_pem(words.key.public))
    run(device, "appliance", "models", "trust", signer)
    for seed in (1, 2):
        run(device, "appliance", "models", "install", words.make(seed, name="tiny-words"))
    run(device, "appliance", "models", "alias", "small", "tiny-words")
    server = subprocess.Popen([sys.executable, "-m", "appliance", "serve"], env=environment(device))
    try:
        facts = use(device, workstation, words.make(3, name="tiny-words"))
    finally:
        server.kill()
        server.wait()
    leave_update(device / "update", folder / "system")
    (folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(made)
    shutil.rmtree(device / "cache" / "quantize")


def leave_update(folder: Path, system: Path) -> None:
    """Leave the state of an update that fell back, and the first piece of the next."""
    system.mkdir()
    state = UpdateState(Step.FELL_BACK, "0.1.0", "0.1.9", "0.1.9 did not become healthy, so 0.1.0 runs again", "0.1.9")
    keep(state, system / "update.json", system / "shown.json")
    (system / "version").write_text("0.1.0\n")
    update = IncomingUpdate(folder, state=system / "shown.json", version=system / "version")
    update.begin(1000)
    update.write(0, bytes(range(100)))


def use(device: Path, workstation: Path, half: Path) -> dict[str, object]:
    """Claim it, make and revoke keys, ask every model, and leave an upload half way."""
    with httpx2.Client(base_url=URL, verify=False, timeout=60) as client:
        wait_until_ready(client)
        claimed = run(workstation, "appliance", "claim", URL, "--as", "owner")
        owner = next(line for line in claimed.splitlines() if line.startswith("sk-lantern-"))
        client.headers["Authorization"] = f"Bearer {owner}"
        keys = {}
        for body in ({"name": "app", "role": "inference", "rate": 120}, {"name": "gone", "role": "inference"}):
            keys[body["name"]] = client.post("/admin/keys", json=body).raise_for_status().json()["key"]
        client.delete("/admin/keys/gone").raise_for_status()
        chat = client.post("/v1/chat/completions", json={"model": "gpt-4o", "temperature": 0, **CHAT})
        vectors = {
            model: [
                row["embedding"]
                for row in client.post("/v1/embeddings", json={"model": model, "input": TEXTS})
                .raise_for_status()
                .json()["data"]
            ]
            for model in ("tiny-embed", "small")
        }
        manifest = (half / "manifest.json").read_text()
        body = {"manifest": manifest, "signature": (half / "manifest.sig").read_text()}
        upload = client.post("/admin/uploads", json=body).raise_for_status().json()
        piece = (half / "model.onnx").read_bytes()[:100]
        size = (half / "model.onnx").stat().st_size
        place = {"Content-Type": "application/octet-stream", "Content-Range": f"bytes 0-{len(piece) - 1}/{size}"}
        client.put(f"/admin/uploads/{upload['id']}/files/model.onnx", content=piece, headers=place).raise_for_status()
        return {
            "upload": {"id": upload["id"], **body, "received": len(piece)},
            "keys": {"owner": owner, **keys},
            "chat": {"request": CHAT, "answer": chat.raise_for_status().json()["choices"][0]["message"]["content"]},
            "embeddings": {"input": TEXTS, "vectors": vectors},
            "pin": run(device, "appliance", "fingerprint").strip(),
            "models": sorted(row["id"] for row in client.get("/v1/models").raise_for_status().json()["data"]),
        }


def wait_until_ready(client: httpx2.Client) -> None:
    """Poll it for a minute."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            client.get("/health").raise_for_status()
        except httpx2.HTTPError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)
        else:
            return


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command on that machine."""
    return {**os.environ, "LANTERN_HOME": str(home), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}


def run(home: Path, module: str, *words: object) -> str:
    """Run one of our commands there, and return its output."""
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, env=environment(home), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
