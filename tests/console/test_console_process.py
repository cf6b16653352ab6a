"""The console process over real HTTP: what it answers, to whom, and what it refuses."""

import contextlib
import http.client
import os
import re
import socket
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from console_harness import FORM, ConsoleProcess, ScriptedNode
from page_documents import NOW_S, change, saved

from gateway.config.settings import Console, Endpoint
from gateway.console.web import STREAMS_SOURCE_MAX
from gateway.console.web_guard import BODY_BYTES_MAX

TOKEN = "a token that nobody guesses"
ANYWHERE = Endpoint("127.0.0.1", 0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A console that only shows."""
    folder = tmp_path_factory.mktemp("page")
    with ConsoleProcess(ScriptedNode(saved("gateway"), [change()]), folder, Console(bind=ANYWHERE)) as process:
        yield process


@pytest.fixture(scope="module")
def operated(tmp_path_factory):
    """A console through which an operator acts."""
    folder = tmp_path_factory.mktemp("operated")
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    console = Console(bind=ANYWHERE, token_file=str(token), hosts=("status.example.org",))
    with ConsoleProcess(ScriptedNode(saved("gateway"), []), folder, console) as process:
        process.node.refuses = None
        yield process


@pytest.fixture
def operator(operated):
    """Log in; return what a browser then sends, and the CSRF token of its forms."""
    operated.node.orders.clear()
    operated.node.refuses = None
    answer = operated.post("/login", {"token": TOKEN})
    assert answer.status == 303, answer.text
    cookie = answer.headers["set-cookie"].partition(";")[0]
    csrf = re.search(r'name="csrf" value="([^"]+)"', operated.get("/", Cookie=cookie).text)
    assert csrf, "a page that is logged in has forms"
    return {"Cookie": cookie}, csrf.group(1)


# -- looking -----------------------------------------------------------------------------------------------------------


def test_page_is_whole_html_without_anything_from_elsewhere(page):
    answer = page.get("/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "pool-vip" in answer.text
    found = _Links()
    found.feed(answer.text)
    assert not [link for link in found.links if "//" in link]
    assert found.inline == [], "no inline script or style: the content security policy forbids them"


def test_documents_are_those_of_the_node(page):
    assert page.get("/api/v1/status").json == saved("gateway")
    assert page.get("/api/v1/history").json == {"changes": [change()]}


@pytest.mark.parametrize("path", ["/", "/page.css", "/api/v1/status", "/metrics", "/none"])
def test_every_answer_forbids_what_no_page_of_ours_does(page, path):
    headers = page.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"


def test_health_is_said_by_status_codes_whatever_the_host_header(page):
    assert page.get("/live", Host="whatever.example").status == 200
    assert page.get("/health").status == 200
    assert page.get("/leader/pool-vip").status in (200, 503)
    assert page.get("/leader/none").status == 404


def test_metrics_are_given_in_the_text_format(page):
    answer = page.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "condor_gateway_" in answer.text


def test_a_crowd_costs_the_node_what_one_reader_does(page):
    time.sleep(0.6)
    before = page.node.asked
    began = time.monotonic()
    for _ in range(10):
        assert page.get("/api/v1/status").status == 200
    assert page.node.asked - before <= 1 + (time.monotonic() - began) / 0.5


def test_nobody_is_asked_while_nobody_looks(page):
    page.get("/")
    before = page.node.asked
    time.sleep(1.3)
    assert page.node.asked == before


def test_page_that_is_open_is_told_what_changes(page):
    with page.stream("/page/stream") as stream:
        first = stream.next("fragments")
        assert {"verdict", "elections", "timeline"} <= first.keys()
        assert "gw9" not in first["timeline"]
        page.node.changes.append(change(seq=99, to="gw9"))
        page.node.tell({"seq": 99, "at": NOW_S, "event": "leader-changed"})
        try:
            for _ in range(5):
                changed = stream.next("fragments")
                if "timeline" in changed:
                    break
            assert "gw9" in changed["timeline"]
            assert "traffic" not in changed, "what has not changed is not sent again"
        finally:
            page.node.changes.pop()


def test_events_are_streamed_to_programs(page):
    with page.stream("/api/v1/events") as stream:
        time.sleep(0.2)
        page.node.tell({"seq": 1_000, "at": NOW_S, "event": "paused", "reason": "a\nb\n\ndata: {}"})
        assert stream.next("paused")["reason"] == "a\nb\n\ndata: {}"
    with page.stream("/api/v1/events?after=999") as stream:
        assert stream.next("paused")["seq"] == 1_000, "a reader that was away gets what it has missed"


def test_readers_of_streams_are_bounded_and_make_room_when_they_go(page):
    streams = []
    try:
        for _ in range(STREAMS_SOURCE_MAX):
            context = page.stream("/page/stream")
            streams.append(context)
            assert context.__enter__().status == 200
        assert page.get("/page/stream").status == 503
        assert page.get("/").status == 200
        elsewhere = http.client.HTTPConnection("127.0.0.1", page.port, 30, source_address=("127.0.0.2", 0))
        with contextlib.closing(elsewhere):
            elsewhere.request("GET", "/page/stream")
            assert elsewhere.getresponse().status == 200, "who is somewhere else finds a place"
    finally:
        for context in streams:
            context.__exit__(None, None, None)
    until = time.monotonic() + 20
    while True:
        with page.stream("/page/stream") as stream:
            if stream.status == 200:
                return
        assert time.monotonic() < until, "the place of a reader that has gone is free again"
        time.sleep(0.1)


# -- refusing ----------------------------------------------------------------------------------------------------------


def test_page_asked_for_by_a_foreign_name_is_refused(page):
    answer = page.get("/api/v1/status", Host="evil.example")
    assert answer.status == 421
    assert "allow-host" in answer.text
    assert page.get("/", Host="gw1:9620").status == 200


def test_refusals_do_not_fill_the_log(page):
    for _ in range(30):
        page.get("/", Host="evil.example")
    assert page.log.read_text().count("console.refused") < 5


def test_name_of_the_configuration_is_allowed(operated):
    assert operated.get("/", Host="status.example.org").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_page_that_only_shows_takes_no_other_method(page, method):
    assert page.request(method, "/").status == 405
    assert page.request(method, "/api/v1/status").status == 405
    assert page.node.orders == []


@pytest.mark.parametrize("name", ["switchover", "pause", "resume", "drain", "undrain"])
def test_page_without_a_token_file_knows_no_orders(page, name):
    assert page.post(f"/api/v1/{name}", {}, Authorization=f"Bearer {TOKEN}").status == 404
    assert page.post("/login", {"token": ""}).status == 404
    assert "Operate" not in page.get("/").text


def test_request_that_is_too_long_is_refused(page):
    assert page.get("/?" + "x" * 3_000).status == 414
    assert page.get("/", Extra="x" * 20_000).status in (400, 431)
    assert page.get("/").status == 200


def test_body_that_is_too_large_is_refused_whether_it_says_so_or_not(operated):
    assert operated.post("/login", {"token": "x" * BODY_BYTES_MAX}).status == 413
    chunk = b"%x\r\n%s\r\n" % (BODY_BYTES_MAX, b"x" * BODY_BYTES_MAX)
    with socket.create_connection(("127.0.0.1", operated.port), 10) as stream:
        head = (f"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nContent-Type: {FORM}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        stream.sendall(head.encode() + chunk + chunk)
        assert stream.recv(100).startswith(b"HTTP/1.1 413")


def test_connection_without_a_whole_request_is_closed_and_a_stream_is_not(page):
    with page.stream("/page/stream") as stream, socket.create_connection(("127.0.0.1", page.port), 30) as slow:
        slow.settimeout(1)
        until = time.monotonic() + 30
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:  # ends with the connection
                slow.sendall(b"GET /" if time.monotonic() > until - 29.5 else b"x")  # one letter a second
                with contextlib.suppress(TimeoutError):
                    if slow.recv(100) == b"":
                        break
                assert time.monotonic() < until
        before = page.node.asked
        while page.node.asked < before + 2:  # it goes on, or ends here
            stream.next("fragments")


def test_process_has_no_rights_left(page):
    status = Path(f"/proc/{page.process.pid}/status").read_text()
    if os.geteuid() == 0:
        assert re.search(r"^Uid:\s+65534\s+65534\s+65534", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^Groups:\s*$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_page_says_so_when_its_node_does_not_answer(tmp_path):
    node = ScriptedNode(saved("gateway"), [])
    with ConsoleProcess(node, tmp_path, Console(bind=ANYWHERE)) as process:
        assert process.get("/live").status == 200
        node.document = None
        time.sleep(0.6)
        answer = process.get("/")
        assert answer.status == 200
        assert "does not answer" in answer.text
        assert process.get("/live").status == 503
        assert process.get("/api/v1/status").status == 503


def test_other_node_that_hangs_holds_no_page_up(page):
    page.node.peers_hang = True
    try:
        time.sleep(1.6)  # the next question to the others is the one that hangs
        page.get("/")
        began = time.monotonic()
        for _ in range(3):
            assert page.get("/").status == 200
        assert time.monotonic() - began < 4  # one answer alone would take 5 s
    finally:
        page.node.peers_hang = False


def test_process_ends_with_its_node(tmp_path):
    node = ScriptedNode(saved("gateway"), [])
    with ConsoleProcess(node, tmp_path, Console(bind=ANYWHERE)) as process:
        node.close()
        assert process.process.wait(5) == 0, process.log.read_text()


# -- acting ------------------------------------------------------------------------------------------------------------


def test_program_with_the_token_gives_orders(operated):
    operated.node.orders.clear()
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    answer = operated.request("POST", "/api/v1/switchover", '{"election": "pool-vip", "to": "gw2"}', **bearer)
    assert answer.status == 200, answer.text
    assert answer.json == {"gap_ms": 12}
    assert operated.request("POST", "/api/v1/pause", **bearer).status == 200
    assert operated.node.orders == [
        {"command": "switchover", "election": "pool-vip", "to": "gw2"},
        {"command": "pause"},
    ]


@pytest.mark.parametrize("body", ["[]", "{", '{"election": 5}', "{}", '{"election": "' + "x" * 300 + '"}'])
def test_order_that_makes_no_sense_is_refused(operated, body):
    operated.node.orders.clear()
    answer = operated.request("POST", "/api/v1/switchover", body, Authorization=f"Bearer {TOKEN}")
    assert answer.status == 400
    assert operated.node.orders == []


def test_refusal_of_the_node_is_handed_on(operated):
    operated.node.refuses = "the replica of cm2 is 4 s behind"
    answer = operated.request("POST", "/api/v1/resume", Authorization=f"Bearer {TOKEN}")
    operated.node.refuses = None
    assert answer.status == 409
    assert answer.json == {"error": "the replica of cm2 is 4 s behind", "reason": "refused"}


def test_program_whose_request_a_foreign_page_has_sent_is_refused(operated):
    headers = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}
    assert operated.request("POST", "/api/v1/pause", **headers).status == 403


def test_browser_acts_with_session_csrf_token_and_origin(operated, operator):
    cookie, csrf = operator
    answer = operated.post("/api/v1/drain", {"csrf": csrf, "node": "gw2"}, **cookie)
    assert answer.status == 303
    assert operated.node.orders == [{"command": "drain", "node": "gw2"}]
    assert "gw2 is drained" in operated.get("/", **cookie).text
    assert "gw2 is drained" not in operated.get("/", **cookie).text, "it is said once"


def test_browser_is_told_why_an_order_was_refused(operated, operator):
    cookie, csrf = operator
    operated.node.refuses = "<b>no</b>"
    assert operated.post("/api/v1/pause", {"csrf": csrf, "reason": "x"}, **cookie).status == 303
    assert "Not done: &lt;b&gt;no&lt;/b&gt;." in operated.get("/", **cookie).text


@pytest.mark.parametrize(
    "spoilt",
    [
        {"csrf": ""},
        {"csrf": "of somebody else"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Cookie": "condor-gateway-session=guessed"},
        {"Cookie": ""},
        {"Content_Type": "text/plain"},
    ],
    ids=str,
)
def test_order_that_another_page_has_a_browser_send_is_refused(operated, operator, spoilt):
    cookie, csrf = operator
    form = {"csrf": spoilt.pop("csrf", csrf), "reason": "x"} if "csrf" in spoilt else {"csrf": csrf, "reason": "x"}
    answer = operated.post("/api/v1/pause", form, **(cookie | spoilt))
    assert answer.status in (403, 415), answer.text
    assert operated.node.orders == []


def test_order_without_any_word_of_its_origin_is_refused(operated, operator):
    cookie, csrf = operator
    answer = operated.request("POST", "/api/v1/pause", f"csrf={csrf}", Content_Type=FORM, **cookie)
    assert answer.status == 403
    assert operated.node.orders == []


def test_orders_are_not_taken_by_get(operated, operator):
    cookie, csrf = operator
    assert operated.get(f"/api/v1/pause?csrf={csrf}", **cookie).status == 405
    assert operated.node.orders == []


def test_cookie_is_hidden_from_scripts_and_never_sent_by_other_sites(operated):
    said = operated.post("/login", {"token": TOKEN}).headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said


def test_logging_out_ends_the_session(operated, operator):
    cookie, csrf = operator
    assert operated.post("/logout", {"csrf": csrf}, **cookie).status == 303
    assert operated.post("/api/v1/pause", {"csrf": csrf}, **cookie).status == 403
    assert 'name="csrf"' not in operated.get("/", **cookie).text


def test_login_that_another_page_sends_is_refused(operated):
    assert operated.post("/login", {"token": TOKEN}, Origin="http://evil.example").status == 403


def test_tokens_cannot_be_guessed_quickly(tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    console = Console(bind=ANYWHERE, token_file=str(token))
    with ConsoleProcess(ScriptedNode(saved("gateway"), []), tmp_path, console) as process:
        assert process.post("/login", {"token": "a guess"}).status == 403
        answer = process.post("/login", {"token": TOKEN})
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert process.request("POST", "/api/v1/pause", Authorization=f"Bearer {TOKEN}").status == 429
        log = process.log.read_text()
        assert '"event": "console.login-refused"' in log
        assert TOKEN not in log
        assert "a guess" not in log


def test_token_file_that_is_open_to_others_leaves_the_page_read_only(tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    console = Console(bind=ANYWHERE, token_file=str(token))
    with ConsoleProcess(ScriptedNode(saved("gateway"), []), tmp_path, console) as process:
        assert process.post("/login", {"token": TOKEN}).status == 404
        assert "chmod 600" in process.log.read_text()


class _Links(HTMLParser):
    """Collects what a page would load, and what stands in it as code."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.links += [value for name in ("src", "href", "action") if (value := named.get(name))]
        self.inline += [f"{tag} {name}" for name in named if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and not named.get("src")):
            self.inline.append(tag)
