"""The frozen settings of the proxy, from file, environment and flags; all faults at once.

model: names, types, defaults · parsing, network, guards: text to values · proxy_variables: HTTPS_PROXY and its kin ·
secret: holding and reading secrets · catalogue: the list of all settings · sources: file, environment, flags · loading:
the way to Settings · describe: the way back to text. Knows nothing of the rest of the proxy, but which header names the
core needs.
"""

from proxy.core.secret import REDACTED, Secret
from proxy.settings.catalogue import FlagInfo, flag_name, variable_name
from proxy.settings.describe import describe, setting_flags
from proxy.settings.guards import RequiredHeader, Rule
from proxy.settings.loading import SettingsError, load_settings, secret_files
from proxy.settings.model import Admin, Callers, Drain, Limits, Log, Login, Session, Settings, Upstream
from proxy.settings.network import ListenAddress, Network
from proxy.settings.proxy_variables import proxy_variables
from proxy.settings.secret import (
    SecretFileError,
    SecretForm,
    read_secret_file,
    read_secret_file_again,
)

__all__ = [
    "REDACTED",
    "Admin",
    "Callers",
    "Drain",
    "FlagInfo",
    "Limits",
    "ListenAddress",
    "Log",
    "Login",
    "Network",
    "RequiredHeader",
    "Rule",
    "Secret",
    "SecretFileError",
    "SecretForm",
    "Session",
    "Settings",
    "SettingsError",
    "Upstream",
    "describe",
    "flag_name",
    "load_settings",
    "proxy_variables",
    "read_secret_file",
    "read_secret_file_again",
    "secret_files",
    "setting_flags",
    "variable_name",
]
