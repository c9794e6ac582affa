"""From a verified bundle to a model that serves: memory check, graph check, a trial in a child process, activation."""

from appliance.install.installer import InstalledModel, Installer
from appliance.install.trial import TrialLimits

__all__ = ["InstalledModel", "Installer", "TrialLimits"]
