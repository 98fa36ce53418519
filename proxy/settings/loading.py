"""Owns how the layers become Settings: which secret counts, parsing, cross checks, all faults at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.core.secret import Secret
from proxy.core.store_url import StoreUrl
from proxy.core.values import Bad, Origin, is_loopback
from proxy.settings.files import SecretForm, Unreadable, check_certificate, read_secret_file
from proxy.settings.model import CONFIG_VARIABLE, ORIGINS, Session, Settings, built, leaves
from proxy.settings.parsing import file_path
from proxy.settings.proxy_variables import proxy_variables
from proxy.settings.sources import Given, Layer, from_environment, from_file, from_flags

DEFAULT: Final = "default"
_MISSING_APP_ID: Final = (
    "app_id is not set: the application id that CardCash gave you is needed; set the environment variable "
    "CARDCASH_APP_ID, or app_id or app_id_file in the configuration file"
)
#: Settings that say something only together.
_PAIRS: Final = (("login.email", "login.password"), ("session.store_cert_file", "session.store_cert_key_file"))


class SettingsError(Exception):
    """The settings cannot be used; `faults` has a sentence for each thing to put right, never a secret."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and in words where each comes from, by its path."""

    settings: Settings
    where: Mapping[str, str]


def load_settings(**sources: Any) -> Settings:
    """Load the settings alone, as `load` does."""
    return load(**sources).settings


def load(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    whole: bool = True,
) -> Loaded:
    """Load the settings: YAML file (`config`, else $CARDCASH_CONFIG) < environment < flags (dotted path -> text).

    Raises SettingsError with all faults of all sources. A value that a higher source replaces is not looked at, but
    unknown names always are. In the environment an empty variable counts as not set, except that it is no path for
    upstream.base_path; in the file and in flags an empty text un-sets an optional setting.
    A secret and its `_file` form in the same source are a fault; in different sources the higher one wins. Reads secret
    files once, blocking for some seconds at most; `secret_files` tells which to follow. `whole`: these sources are all
    that was meant to be given; if not, it is only for the faults, and nothing is called missing, or at odds with another.
    """
    environ = os.environ if environ is None else environ
    layers = [from_flags(flags or {}), from_environment(environ)]
    if config is not None:
        layers.append(from_file(Path(config), "--config"))
    elif environ.get(CONFIG_VARIABLE):
        layers.append(from_file(Path(environ[CONFIG_VARIABLE]), CONFIG_VARIABLE))

    faults = [fault for layer in reversed(layers) for fault in layer.faults]
    faulty = {path for layer in layers for path in layer.broken}
    for leaf in leaves().values():
        if leaf.secret and leaf.file and (problem := _choose_secret(layers, leaf.path, leaf.file.path, leaf.secret)):
            faults.append(problem)
            faulty |= {leaf.path, leaf.file.path}
    # What an unreadable file would have held is unknown: nothing is called missing, or at odds with another, then.
    whole = whole and not any(layer.unusable for layer in layers)
    if whole and not faulty & {"app_id", "app_id_file"} and not any("app_id" in layer.given for layer in layers):
        empty = " (CARDCASH_APP_ID is there, but empty)" if "CARDCASH_APP_ID" in environ else ""
        faults.append(_MISSING_APP_ID + empty)

    # What is faulty has its default below, so that the rest can still be cross-checked.
    values: dict[str, Any] = {"app_id": Secret("placeholder")}
    where = dict.fromkeys(leaves(), DEFAULT)
    for path, leaf in leaves().items():
        given = next((layer.given[path] for layer in layers if path in layer.given), None)
        if given is None:
            continue
        try:
            where[path] = given.where
            values[path] = leaf.read(given.value)
        except Bad as bad:
            faults += [f"{path}{place} ({given.where}): {text}" for place, text in bad.problems]
            faulty.add(path)
    if "upstream.origin" not in values and "environment" in values:
        values["upstream.origin"] = ORIGINS[values["environment"]]
        where["upstream.origin"] = "picked by environment"
    settings = built(values)
    if whole:
        faults += [text for paths, text in _cross_checks(settings, where, environ) if not faulty & paths]
    if faults:
        raise SettingsError(list(dict.fromkeys(faults)))
    return Loaded(settings, where)


def secrets(settings: Settings) -> dict[str, Secret | None]:
    """Return all secrets by their setting; those inside the URL of `session.store` are its own."""
    header = settings.callers.require_header
    found = {path: leaf.value_in(settings) for path, leaf in leaves().items() if leaf.hidden}
    return found | {"callers.require_header": header and header.value}


def secret_files(settings: Settings) -> dict[str, tuple[Path, SecretForm]]:
    """Return the files that secrets were read from, by the setting, with what they may hold."""
    found = {}
    for path, leaf in leaves().items():
        if leaf.secret is not None:
            header = settings.callers.require_header  # which names its file by itself
            file = leaf.file.value_in(settings) if leaf.file else header and header.file
            if file:
                found[path] = (file, leaf.secret)
    return found


def _choose_secret(layers: Sequence[Layer], path: str, file_key: str, form: SecretForm) -> str | None:
    """Keep, of a secret and its `_file` form, the one of the highest layer; read the file. Return a fault, if any."""
    holding = [layer.given for layer in layers if path in layer.given or file_key in layer.given]
    for lower in holding[1:]:
        lower.pop(path, None)
        lower.pop(file_key, None)
    given = holding[0] if holding else {}
    value, file = given.get(path), given.get(file_key)
    if file is None or file.value == "":
        return None
    if value is not None:
        del given[path], given[file_key]
        return f"{path} ({value.where}) and {file_key} ({file.where}) are both set; keep one of them"
    try:
        given[path] = Given(read_secret_file(file_path(file.value), form), f"secret file, {file.where}")
    except Bad as bad:
        del given[file_key]
        return f"{file_key} ({file.where}): {bad} ({file_key} takes the name of a file, not what is in it)"
    return None


def _cross_checks(
    settings: Settings, where: Mapping[str, str], environ: Mapping[str, str]
) -> Iterator[tuple[set[str], str]]:
    """Yield what is wrong between settings: the paths involved, and the sentence."""

    def named(path: str) -> str:
        return f"{path} ({where[path]})"

    upstream, limits, workers = settings.upstream, settings.limits, settings.workers
    origin = Origin.parse(upstream.origin)
    if origin.scheme == "http" and not is_loopback(origin.host) and not upstream.allow_plain_http:
        yield (
            {"upstream.origin", "upstream.allow_plain_http"},
            f"{named('upstream.origin')}: plain http would send the session over the network unprotected; "
            "use https://, or set upstream.allow_plain_http to true",
        )
    if upstream.trust_env:
        try:
            proxy_variables(upstream.origin, environ)
        except Bad as bad:
            yield {"upstream.trust_env"}, str(bad)
    yield from _lone_halves(settings, named)
    yield from _store_checks(settings.session, named)
    wide = [str(address) for address in settings.listen if not address.loopback]
    if wide and settings.callers.allowed_networks is None:
        yield (
            {"listen", "callers.allowed_networks"},
            f"{named('listen')}: {', '.join(wide)} can be reached from other machines; set callers.allowed_networks "
            "to the networks that may use the proxy, or listen on 127.0.0.1",
        )
    shared = [str(address) for address in settings.admin.listen if address in settings.listen and not address.free]
    if shared:
        yield (
            {"listen", "admin.listen"},
            f"{named('admin.listen')}: {', '.join(shared)} is in listen too; give the admin port another",
        )
    if workers > upstream.max_connections:
        yield (
            {"workers", "upstream.max_connections"},
            f"{named('workers')}: {workers} need at least one of upstream.max_connections each, and it is "
            f"{upstream.max_connections}; raise it, or lower workers",
        )
    if limits.replay_body * workers > limits.replay_total:
        split = f", shared out to {workers} workers" if workers > 1 else ""
        yield (
            {"limits.replay_body", "limits.replay_total", "workers"},
            f"{named('limits.replay_body')}: one body may take more than limits.replay_total{split} allows for all; "
            "lower it, or raise limits.replay_total",
        )


def _lone_halves(settings: Settings, named: Callable[[str], str]) -> Iterator[tuple[set[str], str]]:
    """Yield which of two settings that say something only together is missing."""
    for pair in _PAIRS:
        there, missing = sorted(pair, key=lambda path: leaves()[path].value_in(settings) is None)
        if leaves()[there].value_in(settings) is not None and leaves()[missing].value_in(settings) is None:
            leaf = leaves()[missing]
            advice = f"set {leaf.variable} or {leaf.file.path}" if leaf.file else f"set {missing}"
            yield (
                {*pair, f"{missing}_file"},
                f"{missing} is missing, though {named(there)} is set; {advice}, or remove {there}",
            )


def _store_checks(session: Session, named: Callable[[str], str]) -> Iterator[tuple[set[str], str]]:
    """Yield what is wrong between the settings of a Redis."""
    has_tls = isinstance(session.store, StoreUrl) and session.store.tls
    for name in ("store_ca_file", "store_cert_file", "store_cert_key_file"):
        if getattr(session, name) is not None and not has_tls:
            yield (
                {"session.store", "session.store_file", f"session.{name}"},
                f"{named(f'session.{name}')} is for TLS, and {named('session.store')} has none; use rediss://, or remove it",
            )
    cert, key = session.store_cert_file, session.store_cert_key_file
    if cert and key:
        try:
            check_certificate(cert, key)
        except Unreadable as error:
            both = {"session.store_cert_file", "session.store_cert_key_file"}
            yield both, f"{named('session.store_cert_file')} and its key cannot be used: one {error}"
