"""A server that asks for tokens."""

import hashlib
import json
import subprocess
import unittest
from pathlib import Path

import accessibility
from browser import Browser
from hone import BIN, MODEL, Server, sums, write_rows

WEIGHTS = "adapter_model.safetensors"


def token(name, project, role):
    """A token, and the line that lets it in."""
    command = [BIN / "hone-server", "token", name, "--project", project, "--role", role]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip().splitlines()[-1]


class Tokens(unittest.TestCase):
    """The way in, and out."""

    def setUp(self):
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        self.browser.look()
        self.folder = Path(self.browser.folder.name)

    def look_in(self, token):
        self.browser.wait("document.querySelector('#token')")
        self.browser.run("document.querySelector('#token').focus()")
        self.browser.type(token)
        self.browser.press("Enter")

    def let_in(self, lines):
        (self.folder / "tokens").write_text("".join(line + "\n" for line in lines))

    def test_a_token_is_asked_for_kept_in_the_tab_and_sent_with_downloads(self):
        browser = self.browser
        people = [("reader", "red", "read"), ("maker", "red", "submit"), ("other", "blue", "read")]
        (reader, maker, other), lines = zip(*[token(*who) for who in people])
        self.let_in(lines)
        server = Server("--token-file", self.folder / "tokens", "--allow-uri", "file:///")
        self.addCleanup(server.stop)
        rows = write_rows(self.folder / "rows.jsonl", sums(range(1, 5)))
        flags = ["--model", MODEL, "--train", rows, "--max-steps", 2, "--name", "secret sums"]
        job_id = server.train("train", "sft", *flags, token=maker).ended(maker)["job_id"]

        browser.go(f"http://{server.page}/")
        browser.wait("document.querySelector('label[for=token]')")
        accessibility.check(self, browser)
        self.look_in("hone_stranger")
        browser.wait("document.querySelector('[role=alert]')?.textContent.includes('not among those')")
        self.assertNotIn("secret sums", browser.text())
        self.look_in(other)
        browser.wait("document.body.innerText.includes('There is no job yet')")
        browser.click("#forget")
        self.look_in(reader)
        browser.wait("document.body.innerText.includes('secret sums')")
        browser.go(f"http://{server.page}/#/jobs/{job_id}")
        browser.wait("document.querySelector('.files a')")
        self.assertEqual(browser.run("document.cookie"), "")
        self.assertEqual(browser.run("localStorage.length"), 0)
        self.assertNotIn(reader, json.dumps(browser.requests()), "no address holds the token")

        downloads = self.folder / "downloads"
        how = {"behavior": "allow", "downloadPath": str(downloads), "eventsEnabled": True}
        browser.order("Browser.setDownloadBehavior", how, of_tab=False)
        browser.run(f"document.querySelector('.files a[download=\"{WEIGHTS}\"]').click()")
        browser.wait("look.isSaid('done')")
        name = "Browser.downloadProgress"
        browser.until(lambda event: event["method"] == name and event["params"]["state"] == "completed")
        told = json.loads(server.hone("--json", "checkpoints", "get", job_id, "step-000002", token=maker))
        expected = next(file["sha256"] for file in told["files"] if file["name"] == WEIGHTS)
        self.assertEqual(hashlib.sha256((downloads / WEIGHTS).read_bytes()).hexdigest(), expected)

        self.let_in(lines[1:])
        browser.run("location.hash = '#/'")
        alert = "document.querySelector('[role=alert]')?.textContent.includes('not among those')"
        browser.wait(alert, "the token that was taken back to be asked for")


if __name__ == "__main__":
    unittest.main()
