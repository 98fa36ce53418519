"""The frozen settings of the proxy, from file, environment and flags; all faults at once.

model: names, types, defaults, the list of all · parsing, rules: text to values, with `core/values.py` ·
proxy_variables: HTTPS_PROXY and its kin · files: reading them, secrets among them · sources, yaml_file: file,
environment, flags · loading: the way to Settings · describe: the way back to text. Knows nothing of the rest of the proxy
but its core.
"""

from proxy.settings.describe import describe
from proxy.settings.loading import Loaded, SettingsError, load, load_settings, secret_files, secrets
from proxy.settings.model import Settings
from proxy.settings.proxy_variables import proxy_variables

__all__ = [
    "Loaded",
    "Settings",
    "SettingsError",
    "describe",
    "load",
    "load_settings",
    "proxy_variables",
    "secret_files",
    "secrets",
]
