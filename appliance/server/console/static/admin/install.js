/** The install of a model from the one file of its bundle. */

import { fill } from "../words.js";
import { readArchive, smallText } from "./archive.js";
import { say } from "./say.js";
import { sendingCard } from "./sending.js";
import { ask } from "./view.js";

let card = /** @type {HTMLElement|null} */ (null);
let changed = async () => {};

/** Return the card. @param {() => Promise<void>} reload of the view that is seen; called once another model is installed */
export function installCard(reload) {
  changed = reload;
  return card ??= sendingCard({
    base: "/admin/uploads",
    label: say.installFile,
    accept: ".lantern,.tar",
    begin: async (file) => {
      const members = await readArchive(file);
      const [manifest, signature] = [await smallText(members, "manifest.json"), await smallText(members, "manifest.sig")];
      const begun = await ask("/admin/uploads", { json: { manifest, signature } });
      return { upload: begun.state === "installed" ? null : begun, content: (name) => members.get(name) };
    },
    install: async (upload) => {
      if (!upload) return say.installedAlready;
      const { installed } = await ask(`/admin/uploads/${upload.id}/install`, { method: "POST" });
      await changed();
      return fill(say.installed, { name: installed });
    },
  });
}
