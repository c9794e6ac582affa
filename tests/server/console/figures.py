"""Figures of the page for docs/console.md: bytes, the first look, tokens, typing, and the processor time of a view.

`python -m tests.server.console.figures` prints them; it needs Chromium, playwright and the starter models. The browser
computes at a quarter of its speed where times are told. They are no tests: other work on the machine changes them.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

import psutil
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from appliance.home import Home, lantern_home
from tests.server.admin.clients import KEY
from tests.server.console.conftest import CHROMIUM
from tests.server.console.processes import Device
from tests.server.console.test_assets import SHELL, sizes
from tests.server.console.test_chat import ask

SLOWER, TOKENS, PART, SECONDS = 4, 20_000, 1000, 30
_STREAM = """(total) => {
    const real = window.fetch, encoder = new TextEncoder();
    window.sent = 0;
    window.long = [];
    window.keys = [];
    new PerformanceObserver((list) => long.push(...list.getEntries().map((one) => one.duration)))
        .observe({ type: 'longtask' });
    new PerformanceObserver((list) => keys.push(...list.getEntries().filter(({ name }) => name === 'keydown')
        .map((one) => [one.duration, one.processingEnd - one.processingStart])))
        .observe({ type: 'event', durationThreshold: 16 });
    const block = (i) => i % 400 ? '\\n\\nAnother **paragraph**' : '\\n\\n```js\\nlet a;\\n```\\n';
    const delta = (i) => i % 40 ? ` token${i % 7}` : block(i);
    const type = 'response.output_text.delta';
    const event = (i) => encoder.encode(`data: ${JSON.stringify({ type, sequence_number: i, delta: delta(i) })}\\n\\n`);
    window.fetch = (url, options) => {
        if (!String(url).endsWith('/v1/responses')) return real(url, options);
        const body = new ReadableStream({ start(control) {
            const timer = setInterval(() => {
                for (let i = 0; i < 5 && sent < total; i += 1) control.enqueue(event(sent++));
                if (sent < total) return;
                clearInterval(timer);
                control.enqueue(encoder.encode('data: [DONE]\\n\\n'));
                control.close();
            }, 25);
        } });
        return Promise.resolve(new Response(body, { headers: { 'content-type': 'text/event-stream' } }));
    };
}"""
_USABLE = """() => addEventListener('focusin', ({ target }) => {
    if (target.name === 'question') window.usable ??= performance.now();
}, true)"""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    os.environ.update(LANTERN_LOG_LEVEL="WARNING")  # of the device
    say(f"load average of the last minute: {os.getloadavg()[0]:.1f}")
    plain, compressed = sizes(SHELL)
    say(f"first visit: {len(SHELL)} files, {plain:,} bytes, {compressed:,} compressed")
    shared = lantern_home()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        home = Home(Path(folder))
        for name in ("trusted_keys", "bundles", "cache"):
            place: Path = getattr(home, name)
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            place.symlink_to(getattr(shared, name).resolve())
        device = Device(home.root)
        device.start()
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        url = f"{device.server.root_url}/#key={KEY}"
        try:
            first_look(browser, url)
            stream(browser, url)
            device_view(browser, url, psutil.Process(device.pid))
        finally:
            browser.close()
            device.stop()


def slowed(page: Page) -> CDPSession:
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    return session


def first_look(browser: Browser, url: str) -> None:
    times = []
    for _ in range(5):
        page = browser.new_context().new_page()
        slowed(page)
        page.add_init_script(f"({_USABLE})()")
        page.goto(url)
        page.wait_for_function("() => window.usable", timeout=60_000)
        times.append(page.evaluate("window.usable"))
        page.context.close()
    say(f"composer usable, median of 5: {statistics.median(times):,.0f} ms")


def stream(browser: Browser, url: str) -> None:
    page = browser.new_context().new_page()
    page.add_init_script(f"({_STREAM})({TOKENS})")
    page.goto(url)
    page.wait_for_selector("select[name=model] option", state="attached", timeout=60_000)
    session = slowed(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # processor time, whatever else runs
    before = busy(session)
    ask(page, "x")
    costs = []
    for at in range(PART, TOKENS + 1, PART):
        page.wait_for_function("(at) => window.sent >= at", arg=at, polling=50, timeout=300_000)
        after = busy(session)
        costs.append((after - before) / PART * 1e6)
        before = after
    page.get_by_role("button", name="Regenerate").wait_for(timeout=60_000)
    say(f"main thread a token, first {PART}: {costs[0]:,.0f} us, last {PART}: {costs[-1]:,.0f} us")
    say(f"  of each {PART}: {' '.join(f'{cost:,.0f}' for cost in costs)}")
    tasks = page.evaluate("long")
    say(f"tasks over 50 ms meanwhile: {len(tasks)}, longest {max(tasks, default=0):,.0f} ms")
    page.evaluate("keys.length = 0")
    page.get_by_label("Your message").focus()
    page.keyboard.type("a question of some words beside a long answer", delay=60)
    page.wait_for_timeout(500)
    keys = page.evaluate("keys")
    say(f"keys beside it that took 16 ms or more to the next frame: {len(keys)}")
    for what, i in (("to the next frame", 0), ("handled", 1)):
        times = [one[i] for one in keys]
        if times:
            say(f"  {what}: median {statistics.median(times):,.1f} ms, {max(times):,.1f} ms at most")
    page.context.close()


def busy(session: CDPSession) -> float:
    """Return the seconds of processor time that the main thread has worked."""
    told = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(told["TaskDuration"])


def device_view(browser: Browser, url: str, process: psutil.Process) -> None:
    """Tell the processor time of a look, since a busy machine makes fewer than one a second."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    looks: list[str] = []
    page.on("response", lambda answer: looks.append(answer.url) if "/admin/status" in answer.url else None)
    page.goto(url)
    page.wait_for_selector("select[name=model] option", state="attached", timeout=60_000)
    spent = []
    for view in ("about:blank", "#device"):
        page.goto(view if view == "about:blank" else url.partition("#")[0] + view)
        if view == "#device":
            page.get_by_role("heading", name="The last ten minutes").wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        looks.clear()
        before = sum(process.cpu_times()[:2])
        page.wait_for_timeout(SECONDS * 1000)
        spent.append(sum(process.cpu_times()[:2]) - before)
    without, with_one = spent
    say(f"processor time of the device in {SECONDS} s: {without:.2f} s without a view, {with_one:.2f} s with one")
    each = (with_one - without) / len(looks)
    say(f"  {len(looks)} looks, {each * 1000:.1f} ms each: {100 * each:.2f} % of a core at one look a second")
    page.context.close()


if __name__ == "__main__":
    main()
