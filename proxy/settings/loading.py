"""Owns how the layers become Settings: which secret counts, validation, cross checks, all faults at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from proxy.core.secret import Secret
from proxy.settings.catalogue import CONFIG_VARIABLE, leaves
from proxy.settings.model import Settings
from proxy.settings.network import is_plain_to_elsewhere
from proxy.settings.parsing import Bad, file_path
from proxy.settings.proxy_variables import proxy_variables
from proxy.settings.secret import SecretFileError, SecretForm, read_secret_file
from proxy.settings.sources import Given, Layer, from_environment, from_file, from_flags, merged


class SettingsError(Exception):
    """The settings cannot be used; `faults` has a sentence for each thing to put right, never a secret."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def load_settings(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Settings:
    """Load the settings: YAML file (`config`, else $CARDCASH_CONFIG) < environment < flags (dotted path -> text).

    Raises SettingsError with all faults of all sources. A value that a higher source replaces is not looked at, but
    unknown names always are. In the environment an empty variable counts as not set, except that it is the empty list
    for lists and no path for upstream.base_path; in the file and in flags an empty text un-sets an optional setting.
    A secret and its `_file` form in the same source are a fault; in different sources the higher one wins. Reads secret
    files once, blocking for some seconds at most; `secret_files` and `read_secret_file_again` follow their changes.
    """
    environ = os.environ if environ is None else environ
    layers = [from_flags(flags or {}), from_environment(environ)]
    if config is not None:
        layers.append(from_file(Path(config), "--config"))
    elif environ.get(CONFIG_VARIABLE):
        layers.append(from_file(Path(environ[CONFIG_VARIABLE]), CONFIG_VARIABLE))

    faults = [fault for layer in reversed(layers) for fault in layer.faults]
    faulty = {path for layer in layers for path in layer.broken}
    for path in [path for path, leaf in leaves().items() if leaf.secret]:
        problem = _choose_secret(layers, path)
        if problem:
            faults.append(problem)
            faulty |= {path, f"{path}_file"}
    # What an unreadable file would have held is unknown: nothing is called missing, or at odds with another, then.
    whole = not any(layer.unusable for layer in layers)
    if whole and not faulty & {"app_id", "app_id_file"} and not any("app_id" in layer.given for layer in layers):
        empty = any("app_id" in layer.empty for layer in layers)
        faults.append(_MISSING_APP_ID + (" (CARDCASH_APP_ID is there, but empty)" if empty else ""))
    settings, found, invalid = _build(layers)
    faults += found
    if whole:
        faulty |= invalid
        faults += [text for paths, text in _cross_checks(settings, layers, environ) if not faulty & paths]
    if faults:
        raise SettingsError(list(dict.fromkeys(faults)))
    return settings


_MISSING_APP_ID: Final = (
    "app_id is not set: the application id that CardCash gave you is needed; set the environment variable "
    "CARDCASH_APP_ID, or app_id or app_id_file in the configuration file"
)


def secret_files(settings: Settings) -> dict[str, tuple[Path, SecretForm]]:
    """Return the files that secrets were read from, by the setting, with what they may hold."""
    header = settings.callers.require_header
    files = {
        "app_id": settings.app_id_file,
        "login.password": settings.login.password_file,
        "callers.require_header": header.file if header is not None else None,
    }
    return {name: (path, leaves()[name].form) for name, path in files.items() if path is not None}


def _choose_secret(layers: list[Layer], path: str) -> str | None:
    """Keep, of a secret and its `_file` form, the one of the highest layer; read the file. Return a fault, if any."""
    file_key = f"{path}_file"
    for depth, layer in enumerate(layers):
        value, file = layer.given.get(path), layer.given.get(file_key)
        if value is None and file is None:
            continue
        for lower in layers[depth + 1 :]:
            lower.given.pop(path, None)
            lower.given.pop(file_key, None)
        if file is None or file.value == "":
            return None
        if value is not None:
            layer.given.pop(path)
            layer.given.pop(file_key)
            return f"{path} ({value.where}) and {file_key} ({file.where}) are both set; keep one of them"
        try:
            secret = read_secret_file(file_path(file.value), leaves()[path].form)
        except (SecretFileError, Bad) as error:
            layer.given.pop(file_key)
            return f"{file_key} ({file.where}): {error} ({file_key} takes the name of a file, not what is in it)"
        layer.given[path] = Given(secret, file.where)
        return None
    return None


def _build(layers: list[Layer]) -> tuple[Settings, list[str], set[str]]:
    """Validate; on faults once more without the faulty settings, so that the others can still be cross-checked.

    Returns the settings, the faults, and the paths they belong to.
    """
    try:
        return _validate(layers), [], set()
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
    faults: list[str] = []
    invalid: set[str] = set()
    for item in found:
        path = ".".join(str(part) for part in item["loc"])
        invalid.add(path)
        cause = item.get("ctx", {}).get("error")
        origin = _origin(layers, path)
        if isinstance(cause, Bad):
            faults += [f"{path}{place} ({origin}): {text}" for place, text in cause.problems]
        elif item["type"] != "missing":  # app_id only, and already said
            faults.append(f"{path} ({origin}): is not valid")
    for layer in layers:
        for path in invalid:
            layer.given.pop(path, None)
    if "app_id" in invalid:
        layers[0].given["app_id"] = Given(Secret("placeholder"), "nowhere")
    return _validate(layers), faults, invalid


def _validate(layers: list[Layer]) -> Settings:
    return Settings.model_validate(merged(layers))


def _origin(layers: list[Layer], path: str) -> str:
    return next((layer.given[path].where for layer in layers if path in layer.given), "default")


def _cross_checks(
    settings: Settings, layers: list[Layer], environ: Mapping[str, str]
) -> Iterator[tuple[set[str], str]]:
    """Yield what is wrong between settings: the paths involved, and the sentence."""

    def named(path: str) -> str:
        return f"{path} ({_origin(layers, path)})"

    if is_plain_to_elsewhere(settings.upstream.origin) and not settings.upstream.allow_plain_http:
        yield (
            {"upstream.origin", "upstream.allow_plain_http"},
            f"{named('upstream.origin')}: plain http would send the session over the network unprotected; "
            "use https://, or set upstream.allow_plain_http to true",
        )
    if settings.upstream.trust_env:
        try:
            proxy_variables(settings.upstream.origin, environ)
        except Bad as bad:
            yield {"upstream.trust_env"}, str(bad)
    login = settings.login
    if login.email is not None and login.password is None:
        yield (
            {"login.email", "login.password", "login.password_file"},
            f"login.password is missing, though login.email ({_origin(layers, 'login.email')}) is set; "
            "set CARDCASH_LOGIN__PASSWORD or login.password_file, or remove login.email",
        )
    if login.password is not None and login.email is None:
        yield (
            {"login.email", "login.password", "login.password_file"},
            f"login.email is missing, though login.password ({_origin(layers, 'login.password')}) is set; "
            "set login.email, or remove the password",
        )
    wide = [str(address) for address in settings.listen if not address.loopback]
    if wide and settings.callers.allowed_networks is None:
        yield (
            {"listen", "callers.allowed_networks"},
            f"{named('listen')}: {', '.join(wide)} can be reached from other machines; set callers.allowed_networks "
            "to the networks that may use the proxy, or listen on 127.0.0.1",
        )
    shared = [str(a) for a in settings.admin.listen if a in settings.listen and (a.kind == "unix" or a.port)]
    if shared:
        yield (
            {"listen", "admin.listen"},
            f"{named('admin.listen')}: {', '.join(shared)} is in listen too; give the admin port another",
        )
    if settings.workers > settings.upstream.max_connections:
        yield (
            {"workers", "upstream.max_connections"},
            f"{named('workers')}: {settings.workers} need at least one of upstream.max_connections each, and it is "
            f"{settings.upstream.max_connections}; raise it, or lower workers",
        )
    limits = settings.limits
    if limits.replay_body * settings.workers > limits.replay_total:
        split = f", shared out to {settings.workers} workers" if settings.workers > 1 else ""
        yield (
            {"limits.replay_body", "limits.replay_total", "workers"},
            f"{named('limits.replay_body')}: one body may take more than limits.replay_total{split} allows for all; "
            "lower it, or raise limits.replay_total",
        )
