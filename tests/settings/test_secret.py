"""A secret leaves its holder by reveal() only; secret files are read strictly."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.core.secret import Secret
from proxy.core.values import Bad
from proxy.settings import load_settings
from proxy.settings.files import SecretForm, read_secret_file

if TYPE_CHECKING:
    from tests.settings.conftest import Write


def test_cannot_become_json() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret("hunter2"))
    with pytest.raises(TypeError, match="Secret") as caught:
        json.dumps(dataclasses.asdict(load_settings(environ={"CARDCASH_APP_ID": "hunter2"})))
    assert "hunter2" not in str(caught.value)


def test_settings_cannot_be_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(load_settings(environ={"CARDCASH_APP_ID": "hunter2"}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("abc", "abc"),
        ("abc\n", "abc"),
        ("abc\r\n", "abc"),
        (" abc ", " abc "),
        ("pässwörd\n", "pässwörd"),
        (b"\xef\xbb\xbfabc\n", "abc"),
    ],
)
def test_file_without_one_newline_at_its_end(write: Write, content: str | bytes, expected: str) -> None:
    assert read_secret_file(write(content)).reveal() == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("abc\n\n", "more than one line"),
        ("a\nb", "more than one line"),
        ("a\x00b", "control characters"),
        ("abc\r", "control characters"),
        (b"\xff\xfe", "not UTF-8"),
        ("x" * (64 * 1024 + 1), "larger than 64 KiB"),
    ],
)
def test_a_file_is_refused_without_its_name_or_content(write: Write, content: str | bytes, problem: str) -> None:
    path = write(content)
    with pytest.raises(Bad, match=problem) as caught:
        read_secret_file(path)
    assert str(path) not in str(caught.value), "somebody may have given the secret for the name of its file"
    assert caught.value.__context__ is None


def test_of_a_missing_file_it_is_told_that_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Bad, match=r"^the file cannot be read: No such file or directory$"):
        read_secret_file(tmp_path / "nowhere")


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Bad, match="cannot be read"):
        read_secret_file(tmp_path)


def test_application_id_files_hold_visible_ascii(write: Write) -> None:
    with pytest.raises(Bad, match="blanks or characters beyond ASCII"):
        read_secret_file(write("an id"), SecretForm.VISIBLE)
