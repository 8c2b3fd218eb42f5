"""Debian's Chromium, driven over its pipe by the DevTools protocol: no library, no port that others could reach."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PATIENCE = 60


def find():
    """The browser's program; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One browser with a profile of its own, and one tab."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hone-web-", ignore_cleanup_errors=True)
        read_orders, self.say = os.pipe()
        self.hear, write_answers = os.pipe()
        # Out of the way of the numbers that they get in the end.
        to_browser, from_browser = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read_orders, write_answers))
        os.close(read_orders)
        os.close(write_answers)
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--force-device-scale-factor=1",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.folder.name}/profile",
        ]
        # Chromium reads orders from its descriptor 3 and answers on 4.
        shell = 'exec 3<&"$IN" 4>&"$OUT"; exec "$0" "$@"'
        environment = {**os.environ, "IN": str(to_browser), "OUT": str(from_browser)}
        self.process = subprocess.Popen(
            ["bash", "-c", shell, find(), *flags],
            pass_fds=(to_browser, from_browser),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.rest = b""
        self.last_id = 0
        self.events = []
        target = self.order("Target.createTarget", {"url": "about:blank"}, of_tab=False)["targetId"]
        tab = {"targetId": target, "flatten": True}
        self.session = self.order("Target.attachToTarget", tab, of_tab=False)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility", "DOM"):
            self.order(f"{domain}.enable")
        look = Path(__file__).with_name("look.js").read_text()
        self.order("Page.addScriptToEvaluateOnNewDocument", {"source": look})

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.say)
        os.close(self.hear)
        self.folder.cleanup()

    # The protocol

    def order(self, method, parameters=None, of_tab=True):
        """Gives an order to the tab, or to the browser, and waits for its answer; what happens meanwhile is kept in
        `events`."""
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": parameters or {}}
        if of_tab:
            message["sessionId"] = self.session
        os.write(self.say, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self.rest:
            piece = os.read(self.hear, 1 << 16)
            if not piece:
                raise RuntimeError("the browser is gone")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    # What a person does

    def go(self, url):
        self.order("Page.navigate", {"url": url})

    def run(self, script):
        """What a script comes to."""
        parameters = {"expression": script, "awaitPromise": True, "returnByValue": True}
        result = self.order("Runtime.evaluate", parameters)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}\n{json.dumps(result['exceptionDetails'], indent=1)[:1500]}")
        return result["result"].get("value")

    def wait(self, script, what=None):
        """Waits until a script comes to something true, looking again as the page changes; gives what it comes to."""
        end = time.monotonic() + PATIENCE
        look = f"""new Promise((done) => {{
            const see = () => {{
                try {{ const found = {script}; return found instanceof Node || found; }} catch {{ return null; }}
            }};
            const first = see();
            if (first) return done(first);
            const end = (found) => {{ watcher.disconnect(); clearTimeout(timer); done(found); }};
            const watcher = new MutationObserver(() => {{ const found = see(); if (found) end(found); }});
            watcher.observe(document, {{ childList: true, subtree: true, attributes: true, characterData: true }});
            const timer = setTimeout(() => end(null), 1000);
        }})"""
        while time.monotonic() < end:
            try:
                found = self.run(look)
            except RuntimeError:
                # The page was replaced meanwhile.
                continue
            if found:
                return found
        text = self.run("document.body.innerText")
        raise AssertionError(f"waited in vain for {what or script}; the page says:\n{text[:2000]}\n...\n{text[-1500:]}")

    def text(self):
        return self.run("document.body.innerText")

    def click(self, selector):
        self.wait(f"document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key, code=None):
        """Presses a key, as a hand does."""
        names = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "Home": 36, "End": 35}
        parameters = {"key": key, "code": code or key, "windowsVirtualKeyCode": names[key]}
        if key == "Enter":
            parameters["text"] = "\r"
        self.order("Input.dispatchKeyEvent", {**parameters, "type": "keyDown"})
        self.order("Input.dispatchKeyEvent", {**parameters, "type": "keyUp"})

    def type(self, text):
        self.order("Input.insertText", {"text": text})

    def look(self, width=1100, height=800, dark=False):
        """Sets the size of the window and whether dark is preferred."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.order("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.order("Emulation.setEmulatedMedia", {"features": [scheme]})
        # Two frames: charts take their new size in the first.
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))))")

    def picture(self, path, height=None):
        """A picture of the page from its top: as high as `height`, or as the page."""
        size = self.order("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0,
            "y": 0,
            "width": size["width"],
            "height": min(size["height"], height or size["height"]),
            "scale": 1,
        }
        found = self.order(
            "Page.captureScreenshot",
            {"format": "png", "clip": clip, "captureBeyondViewport": True, "optimizeForSpeed": False},
        )
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    # What went on

    def requests(self):
        """Addresses that the page has asked."""
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self):
        """What went wrong in the page: exceptions, and what the console calls an error."""
        found = []
        for event in self.events:
            told = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(told["exceptionDetails"])[:500])
            elif event["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
                found.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
                found.append(json.dumps(told["args"])[:500])
        return found

    def complaints_beyond_connections(self):
        """The same without connections that were refused or cut."""
        return [told for told in self.complaints() if "net::ERR_" not in told]

    def until(self, is_it):
        """Waits for an event of the protocol, which may have come already."""
        for event in self.events:
            if is_it(event):
                return event
        while True:
            event = self._next()
            self.events.append(event)
            if is_it(event):
                return event

    def unnamed_controls(self):
        """Controls, tables and figures without a name for those who hear the page, as roles."""
        named = {
            "button",
            "link",
            "textbox",
            "combobox",
            "slider",
            "checkbox",
            "table",
            "progressbar",
            "DisclosureTriangle",
            "heading",
            "region",
            "navigation",
        }
        nodes = self.order("Accessibility.getFullAXTree")["nodes"]
        missing = []
        for node in nodes:
            role = node.get("role", {}).get("value")
            if not node.get("ignored") and role in named and not node.get("name", {}).get("value", "").strip():
                missing.append(role)
        return missing

    def roles(self):
        """How often each role is there."""
        counts = {}
        for node in self.order("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                role = node.get("role", {}).get("value")
                counts[role] = counts.get(role, 0) + 1
        return counts
