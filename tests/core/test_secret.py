"""A secret leaves its holder by reveal() only."""

from __future__ import annotations

import copy
import pickle

import pytest

from proxy.core.secret import Secret


def test_is_revealed_on_request_only() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert {str(secret), repr(secret), f"{secret}", f"{secret:s}", "%s" % secret, repr([secret])} == {  # noqa: UP031
        "********",
        "[********]",
    }


def test_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret("hunter2"))


def test_equality_is_that_of_the_texts() -> None:
    assert Secret("é") == Secret("é")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))


def test_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Secret("")


def test_cannot_be_changed() -> None:
    secret = Secret("a")
    with pytest.raises(AttributeError, match="cannot be changed"):
        secret.value = "b"
    (where,) = [name for name in dir(secret) if name.endswith("__text")]
    with pytest.raises(AttributeError, match="cannot be changed"):
        delattr(secret, where)
    assert secret.reveal() == "a"


def test_copies_are_the_same_object() -> None:
    secret = Secret("a")
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_is_hidden_in_any_width_of_a_column() -> None:
    assert f"{Secret('hunter2'):>10}" == "  ********"


def test_lines_are_secrets_of_their_own() -> None:
    assert Secret(" one \n\ntwo\r\n").lines() == (Secret("one"), Secret("two"))
