"""From a verified bundle to a model that serves: memory, graph, a trial in a throw-away process, activation."""

from appliance.install.installer import Installed, Installer
from appliance.install.trial import TrialLimits

__all__ = ["Installed", "Installer", "TrialLimits"]
