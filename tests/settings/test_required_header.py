"""What every caller must send: a header of the operator's own, whose file may change while callers are served."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.core.values import Bad
from proxy.settings.parsing import required_header
from tests.conftest import StartProxy


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("first-key\n")
    return tmp_path / "key"


@pytest.mark.parametrize(
    "content",
    ["second-key ", " second-key", "schlüssel", "a\tb", "two\nlines", ""],
    ids=["blank-behind", "blank-before", "beyond-ascii", "tab", "lines", "empty"],
)
async def test_a_new_value_that_could_not_have_been_started_with_leaves_the_last_good_one(
    start_proxy: StartProxy, key: Path, content: str
) -> None:
    proxy = await start_proxy(CALLERS__REQUIRE_HEADER=f"X-Key: {key}")
    key.write_text(content)
    with capture_logs() as lines:
        for _ in range(2):
            await proxy.proxy.secrets.look()
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["secret_file_unreadable"]
    assert (await proxy.ask("GET /carts", b"X-Key: first-key")).status == 200


async def test_a_good_new_value_is_asked_for_from_then_on(start_proxy: StartProxy, key: Path) -> None:
    proxy = await start_proxy(CALLERS__REQUIRE_HEADER=f"X-Key: {key}")
    key.write_text("second key\n")
    await proxy.proxy.secrets.look()
    assert (await proxy.ask("GET /carts", b"X-Key: first-key")).code == "header_required"
    assert (await proxy.ask("GET /carts", b"X-Key: second key")).status == 200


@pytest.mark.parametrize(
    "name",
    [
        *["Host", "Content-Length", "Transfer-Encoding", "Connection", "Origin", "Sec-Fetch-Site", "Expect", "Upgrade"],
        *["Authorization", "Cookie", "x-cc-app", "X-Request-ID", "Content-Type", "Content-Encoding", "User-Agent"],
        *["X-HTTP-Method-Override", "X-Forwarded-For", "Forwarded", "Proxy-Authorization", "TE", "Trailer"],
        *["content_length", "HOST"],
    ],
)
def test_a_header_that_the_proxy_needs_is_refused(name: str) -> None:
    with pytest.raises(Bad, match="choose one of your own"):
        required_header(f"{name}: a-value")


@pytest.mark.parametrize("name", ["X-Proxy-Key", "Metadata-Flavor", "X-Host", "Api-Key", "X-Origin"])
def test_a_header_of_ones_own_is_taken(name: str) -> None:
    assert required_header(f"{name}: a-value").name == name
