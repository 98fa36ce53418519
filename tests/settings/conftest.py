from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.settings import Settings, SettingsError, load_settings

Load = Callable[..., Settings]
Faults = Callable[..., list[str]]
Write = Callable[..., Path]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load settings from a YAML text, variables (without the prefix) and flags; an application id is there."""

    def load(yaml: str | None = None, flags: Mapping[str, str] | None = None, **environ: str) -> Settings:
        config = None
        if yaml is not None:
            config = tmp_path / "proxy.yaml"
            config.write_text(yaml, encoding="utf-8")
        variables = {f"CARDCASH_{name}": text for name, text in environ.items()}
        if not any(name.startswith("APP_ID") for name in environ) and "app_id" not in (yaml or ""):
            variables["CARDCASH_APP_ID"] = "an-app-id"
        return load_settings(config=config, environ=variables, flags=flags)

    return load


@pytest.fixture
def faults(load: Load) -> Faults:
    """Like load, for settings that are refused: return the faults."""

    def faults(*args: object, **environ: str) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            load(*args, **environ)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None, "what caused it may hold the inputs"
        assert str(caught.value) == "\n".join(caught.value.faults)
        assert not any("\n" in fault for fault in caught.value.faults)
        return caught.value.faults

    return faults


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file and return its path."""

    def write(content: str | bytes, name: str = "secret") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
