"""The status page in a real browser: a real failover appears on it without reload; it is readable for everybody.

Screenshots are kept in build/screenshots.
"""

import os
import signal
import time
from pathlib import Path

import pytest
from console_harness import ConsoleProcess, ScriptedNode
from page_documents import history_at, saved

from gateway.config.settings import Console, Endpoint
from gateway.console.admin import AdminUnreachable, ask_admin
from tests.support.browser import PHONE, WIDE, Browser, forwarded
from tests.support.nodes import Nodes, address_text, head_text, segment_for_nodes

PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
PEERS = {"gw1": "10.77.0.91", "gw2": "10.77.0.92", "w1": "10.77.0.61"}
PORT = 9620
TOKEN = "a token that nobody guesses"
START_S_MAX = 60  # of a machine that does other things as well
SHIFT_MAX = 0.01  # a tenth of what counts as good (web.dev/cls)


# Words in letters that nobody reads on a phone.
SMALL = """
return [...document.querySelectorAll('main *')]
  .filter((one) => one.childNodes.length === 1 && one.firstChild.nodeType === 3)
  .filter((one) => parseFloat(getComputedStyle(one).fontSize) < 11)
  .map((one) => one.outerHTML);
"""
# Words too like their ground, by the formula of WCAG 2.2.
FAINT = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
  .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
  .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
const ground = (one) => {
  for (; one; one = one.parentElement) {
    const found = rgb(getComputedStyle(one).backgroundColor);
    if (found[3] === 255) return found;
  }
  return [255, 255, 255];
};
const found = [];
for (const one of document.querySelectorAll('body *:not(svg *)')) {
  if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
  if (!one.getClientRects().length) continue;
  const [a, b] = [light(rgb(getComputedStyle(one).color)), light(ground(one))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found.push(ratio.toFixed(2) + ' ' + one.outerHTML.slice(0, 120));
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


# -- a real cluster ----------------------------------------------------------------------------------------------------


def config(name: str, folder: Path) -> str:
    return (
        head_text("lab", PEERS, folder, name)
        + address_text("pool-vip", "10.77.0.100/32", "gw1 gw2")
        + f"console\n    bind 127.0.0.1:{PORT}\n"
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("cluster")
    with segment_for_nodes("cgpage", tmp_path) as segment, Nodes(segment, tmp_path) as nodes:
        for name, ip in PEERS.items():
            segment.host(name, f"{ip}/24")
            nodes.config(name).write_text(config(name, tmp_path))
            nodes.start(name)
        for name in PEERS:
            nodes.wait(lambda name=name: leader(nodes, name), f"{name} knows the leader", START_S_MAX)
        yield nodes


def leader(nodes: Nodes, asked: str) -> str | None:
    """Return who holds the address, as a node says at its own socket: to start a command costs more than it answers."""
    try:
        said = ask_admin(nodes.folder / f"state-{asked}" / "admin.sock", "status")
    except AdminUnreachable:
        return None
    return said["elections"]["pool-vip"]["leader"]


@pytest.mark.kernel
def test_failover_appears_on_the_open_page_without_reload(cluster, browser):
    old = leader(cluster, "w1")
    new = {"gw1": "gw2", "gw2": "gw1"}[old]
    with forwarded(cluster.host(new), PORT) as port:
        cluster.wait(lambda: "console.listening" in cluster.log(new), "the console listens", START_S_MAX)
        browser.look(WIDE)
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait(lambda: browser.text("#live-word") == "live", "the page is live")
        browser.wait(lambda: browser.text("h1").startswith("Healthy"), "all is well")
        browser.run("window.since = 'before'")
        lease = browser.text("[aria-label='Address pool-vip'] .lease .value")
        browser.wait(lambda: browser.text("[aria-label='Address pool-vip'] .lease .value") != lease, "a renewed lease")
        browser.screenshot(PICTURES / "live-before.png")
        shown = browser.run("return document.querySelectorAll('.change').length")

        cluster.end(old, signal.SIGKILL)
        browser.wait(lambda: browser.text("[aria-label='Address pool-vip'] .leader") == new, f"{new} holds the address")
        browser.screenshot(PICTURES / "live-during.png")
        browser.wait(lambda: f"{old} is silent" in browser.text(".items"), f"{old} is called silent")
        row = browser.wait(
            lambda: (
                browser.run("return document.querySelectorAll('.change').length") > shown
                and browser.text(".change:first-child")
            ),
            "the failover is in the timeline",
        )
        assert f"{old} → {new}" in row
        browser.wait(lambda: "elected" in browser.text(".change:first-child .figures"), "its phases")
        browser.wait(lambda: "announced" in browser.text(".change:first-child .figures"), "its phases")
        assert browser.run("return window.since") == "before", "the page was never loaded again"
        browser.screenshot(PICTURES / "live-after.png")
        assert browser.complaints() == []


@pytest.mark.kernel
def test_page_comes_back_by_itself_after_a_reload(cluster, browser):
    with forwarded(cluster.host("w1"), PORT) as port:
        cluster.wait(lambda: "console.listening" in cluster.log("w1"), "the console listens", START_S_MAX)
        browser.look(WIDE)
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait(lambda: browser.text("#live-word") == "live", "the page is live")
        os.kill(cluster.guard("w1"), signal.SIGHUP)
        browser.wait(lambda: browser.text("#live-word") != "live", "the old console has ended", START_S_MAX)
        browser.wait(lambda: browser.text("#live-word") == "live", "the page is live again", START_S_MAX)
        assert len(cluster.events("w1", "console.listening")) == 2, "it is another console"
        browser.complaints()  # of the connection that was lost


# -- the page of a whole pool, as real nodes have described it ---------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    node = ScriptedNode(saved("gateway"), history_at(time.time()), saved("peers"))
    console = Console(bind=Endpoint("127.0.0.1", 0), token_file=str(token))
    with ConsoleProcess(node, folder, console) as process:
        yield process


@pytest.fixture
def opened(pool, browser):
    """Open the pool's page in some manner."""

    def open_page(size=WIDE, **how):
        browser.look(size, **how)
        browser.complaints()  # of the page before: it may have ended with its node
        browser.open(f"http://127.0.0.1:{pool.port}/")
        if how.get("scripts", True):
            browser.wait(lambda: browser.text("#live-word") == "live", "the page is live")
        return browser

    yield open_page
    browser.look()


def test_quiet_page_does_not_jump_while_it_is_updated(pool, opened):
    browser = opened()
    browser.watch_shifts()
    asked = pool.node.asked
    browser.wait(lambda: pool.node.asked >= asked + 3, "three more looks")
    assert browser.shifts() < SHIFT_MAX
    browser.screenshot(PICTURES / "quiet.png")
    assert browser.complaints() == []


def test_moment_without_a_leader_is_seen_from_afar(tmp_path, browser):
    """What a real gateway said 310 ms after the death of the elected manager."""
    node = ScriptedNode(saved("electing"), history_at(time.time())[:-1])
    with ConsoleProcess(node, tmp_path, Console(bind=Endpoint("127.0.0.1", 0))) as process:
        browser.look()
        browser.open(f"http://127.0.0.1:{process.port}/")
        assert browser.text("h1") == "Interrupted Nobody leads managers"
        assert browser.driver.title == "Interrupted · campus"
        browser.screenshot(PICTURES / "electing.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_fits_a_phone(opened, dark):
    browser = opened(PHONE, dark=dark)
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE[0]
    assert browser.run(SMALL) == []
    browser.screenshot(PICTURES / f"narrow-{'dark' if dark else 'light'}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_stands_out_from_its_ground(opened, dark):
    browser = opened(dark=dark)
    assert browser.run(FAINT) == []  # WCAG 2.2, 1.4.3
    browser.screenshot(PICTURES / f"pool-{'dark' if dark else 'light'}.png")


def test_page_says_the_same_without_javascript(opened):
    browser = opened(scripts=False)
    without = browser.source()
    assert "refreshed every 5 s" in without
    assert "gw1" in without
    assert "pool-vip" in without
    assert 'http-equiv="refresh"' in without


def test_page_is_used_by_keyboard_alone(opened):
    browser = opened()
    reached = []
    for _ in range(60):
        browser.tab()
        where = browser.run("const one = document.activeElement; return one.id || one.className || one.tagName")
        if where == "BODY":
            break
        reached.append(where)
    assert reached[0] == "skip"
    assert any(one.startswith("c-") for one in reached), "each failover can be reached, and shows its figures"
    assert "SUMMARY" in reached
    assert "token" in reached


def test_open_table_and_focus_survive_updates(pool, opened):
    browser = opened()
    browser.run("document.getElementById('d-timeline').open = true; document.querySelector('.change').focus()")
    focused = browser.run("return document.activeElement.id")
    pool.node.changes[-1]["gap_ms"] += 1
    pool.node.tell({"seq": 5_000, "at": time.time(), "event": "phase"})
    browser.wait(lambda: str(pool.node.changes[-1]["gap_ms"]) in browser.text("#f-timeline"), "the new figure")
    assert browser.run("return document.getElementById('d-timeline').open")
    assert browser.run("return document.activeElement.id") == focused


def test_operator_logs_in_and_hands_over(pool, opened):
    browser = opened()
    browser.run("document.getElementById('token').value = arguments[0]", TOKEN)
    browser.run("document.querySelector('.login').requestSubmit()")
    browser.wait(lambda: browser.text(".operate .forms"), "the forms")
    browser.run("document.getElementById('reason').value = 'moving a rack'")
    browser.run("[...document.querySelectorAll('button')].find((one) => one.textContent === 'Pause').click()")
    browser.wait(lambda: "Paused" in browser.text(".message"), "what was done")
    assert pool.node.orders == [{"command": "pause", "reason": "moving a rack"}]
    browser.screenshot(PICTURES / "operator.png")
    assert browser.complaints() == []
