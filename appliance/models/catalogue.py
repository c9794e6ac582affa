"""The installed models by name and alias, and the faults of those that are refused; owned by the event loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from appliance.bundle import BundleStore, SignedManifest
from appliance.errors import BundleError
from appliance.models.entry import Entry
from appliance.models.loaded import ListedModel
from appliance.models.memory import Need

_LOGGER = logging.getLogger(__name__)


class Catalogue:
    """One entry for each model that may be loaded. `damaged` has the reason for each that was refused."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.damaged: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def get(self, model_id: str) -> Entry | None:
        """Return the entry of a model by its name or an alias."""
        return self.entries.get(self.aliases.get(model_id, model_id))

    def add(self, bundle: SignedManifest, needs: tuple[Need, ...]) -> Entry:
        """Add a model that is not loaded yet."""
        self.entries[bundle.name] = entry = Entry(bundle, needs)
        return entry

    def take_out(self, wanted: Mapping[str, SignedManifest]) -> list[Entry]:
        """Remove the entries that are no longer wanted or of another version, and return them."""
        gone = [
            entry
            for name, entry in self.entries.items()
            if (found := wanted.get(name)) is None or found.digest != entry.bundle.digest
        ]
        for entry in gone:
            del self.entries[entry.name]
        return gone

    def refuse(self, entry: Entry, reason: str) -> None:
        """Remove the entry of a damaged model, unless another version has taken its place."""
        if self.entries.get(entry.name) is entry:
            self.damaged[entry.name] = reason
            del self.entries[entry.name]

    def listed(self) -> list[ListedModel]:
        """List every id that a request may name: the models, then the aliases.

        Clients that are told no model take the first, most of them to chat: that is the one called `default`, else the
        first that chats.
        """
        preferred = self.aliases.get("default")
        models = sorted(
            self.installed(), key=lambda model: (model.id != preferred, model.bundle.manifest.model.kind != "decoder")
        )
        aliases = [ListedModel(alias, self.entries[name].bundle) for alias, name in sorted(self.aliases.items())]
        return models + aliases

    def installed(self) -> list[ListedModel]:
        """Return the models without their aliases, loaded or not."""
        return [ListedModel(name, entry.bundle) for name, entry in sorted(self.entries.items())]

    def set_aliases(self, wanted: Mapping[str, str]) -> None:
        """Replace the aliases; one of a model that is not installed is left out."""
        self.aliases = {}
        for alias, name in wanted.items():
            if name in self.entries and alias not in self.entries:
                self.aliases[alias] = name
            elif name not in self.entries:
                _LOGGER.warning("the alias %s is left out: the model %s is not installed", alias, name)


def installed_in(store: BundleStore) -> tuple[dict[str, SignedManifest], dict[str, str]]:
    """Return the bundles with a valid signature, and the faults of the others; loading verifies the files."""
    found, refused = {}, {}
    for name in store.names():
        try:
            found[name] = store.describe(name)
        except BundleError as err:
            _LOGGER.error("the model %s is left out: %s", name, err.message)
            refused[name] = err.message
    return found, refused
