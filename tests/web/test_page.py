"""The web page in Chromium, over real runs of tiny models. `make web-test` runs it; with PICTURES set to a folder the
pictures of docs/web.md are taken on the way.
"""

import hashlib
import json
import os
import unittest
from pathlib import Path

import accessibility
from browser import Browser
from hone import MODEL, Network, Server, pairs, sums, write_rows

PICTURES = os.environ.get("PICTURES")


def stored_events(server, job_id):
    """Every event of a job, as the API tells them."""
    lines = server.hone("--json", "jobs", "watch", job_id).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


class Page(unittest.TestCase):
    """One browser and one server for all, with jobs of every kind."""

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        home = cls.server.home
        training = [*sums(range(1, 25)), {"messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one two three " * 400}]}]
        cls.rows = write_rows(home / "sums.jsonl", training)
        cls.held_out = write_rows(home / "held-out.jsonl", sums(range(25, 31)))
        cls.pairs = write_rows(home / "pairs.jsonl", pairs(range(1, 17)))
        cls.held_out_pairs = write_rows(home / "held-out-pairs.jsonl", pairs(range(25, 29)))

    def setUp(self):
        self.browser.events.clear()
        self.browser.look()

    def tearDown(self):
        outside = [url for url in self.browser.requests() if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:", "about:"))]
        self.assertEqual(outside, [], "nothing is asked of anybody else")

    def open(self, path="", site=None):
        # The same document would go on with its old view.
        self.browser.go("about:blank")
        self.browser.go(f"http://{site or self.server.page}/#/{path}")

    def open_ended(self, job_id):
        """Opens the page of a job that has ended, and waits until all of it is drawn."""
        self.open(f"jobs/{job_id}")
        whole = "(({ dataset }) => dataset.connection === 'ended' && dataset.drawn === dataset.events)(document.querySelector('main > div'))"
        self.browser.wait(f"document.querySelector('.standing .badge') && {whole}", "all events to be drawn")

    def sft(self, *flags, name="sums"):
        spec = ["train", "sft", "--model", MODEL, "--train", self.rows, "--eval", self.held_out, "--name", name, "--max-length", 256]
        return self.server.train(*spec, "--learning-rate", "0.01", "--examples-per-step", 16, *flags)

    def picture(self, name, **how):
        if PICTURES:
            self.browser.picture(Path(PICTURES) / name, **how)

    def test_a_live_run_is_followed_and_goes_on_after_a_dropped_connection(self):
        browser = self.browser
        network = Network(self.server.page)
        run = self.sft("--max-steps", 240, "--eval-every", 40, "--save-every", 80)
        self.open(f"jobs/{run.job_id}", network.address)
        browser.wait("/Step ([2-9]\\d|\\d{3,}) of 240/.test(document.body.innerText)", "steps while they are taken")
        browser.wait("document.querySelector('#connection').textContent === 'Live'")
        self.picture("live.png", height=1000)

        network.cut()
        browser.wait("document.querySelector('#connection').textContent.includes('trying again')")
        seen = int(browser.run("document.querySelector('[data-sequence]').dataset.sequence"))
        while int(self.server.job(run.job_id)["last_sequence"]) <= seen + 20:
            pass
        network.mend()
        browser.wait(f"Number(document.querySelector('[data-sequence]').dataset.sequence) > {seen}", "the stream to go on")
        job = run.ended()
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
        browser.wait("document.querySelector('.standing .badge.succeeded')")
        browser.wait(f"document.querySelector('[data-sequence]').dataset.sequence === '{job['last_sequence']}'")
        taken = browser.run("document.querySelector('[data-sequence]').dataset.events")
        self.assertEqual(taken, job["last_sequence"], "each event once, none missing")

        events = stored_events(self.server, run.job_id)
        steps = [event["train_step"] for event in events if "train_step" in event]
        self.assertEqual(len(steps), 240)
        asked = [event["params"]["request"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
        streams = [request["headers"] for request in asked if request["url"].endswith("/events")]
        last_seen = [headers.get("last-event-id") for headers in streams]
        self.assertIsNone(last_seen[0])
        self.assertEqual(last_seen[-1], str(seen), "the second stream begins where the first broke off")

        # The drawing is for eyes; the same numbers stand in the sentence and in the table.
        browser.run("document.querySelector('figure details').open = true")
        rows = browser.wait("[...document.querySelectorAll('figure table tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))")
        self.assertEqual(rows[0][0], "0", "the evaluation before the first step")
        self.assertEqual(rows[-1][0], "240")
        self.assertAlmostEqual(float(rows[-1][1]), steps[-1]["loss"], places=3)
        self.assertIn("train: from", browser.run("document.querySelector('figure .sentence').textContent"))
        self.assertEqual(browser.complaints_beyond_connections(), [])

    def test_a_finished_run_shows_everything_light_dark_and_on_a_phone(self):
        browser = self.browser
        run = self.sft("--max-steps", 60, "--eval-every", 15, "--save-every", 20, name="sums to eight")
        run.ended()
        self.open_ended(run.job_id)
        browser.wait("document.querySelector('.files')")
        text = browser.text()
        for words in ["sums to eight", "LORA", "Held-out loss", "Gradient norm", "Learning rate", "Hard examples", "Rows read", "over length dropped", "step-000060", "the best"]:
            self.assertIn(words.lower(), text.lower())
        self.assertEqual(browser.run("document.querySelectorAll('figure:not([hidden]) canvas').length") >= 6, True)
        self.assertNotIn("Margin of rewards", text, "there is none in SFT")
        marked = browser.run("[...document.querySelectorAll('mark.trained')].map((mark) => mark.textContent)")
        self.assertTrue(any(words.startswith("25 and") or " is " in words for words in marked), marked)

        for dark in (False, True):
            browser.look(dark=dark)
            accessibility.check(self, browser)
            self.picture(f"job-{'dark' if dark else 'light'}.png")
        browser.look(width=360, height=740)
        accessibility.check(self, browser)
        self.picture("job-phone.png", height=2600)
        self.assertEqual(browser.complaints(), [])

    def test_what_strangers_wrote_stays_text(self):
        browser = self.browser
        evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
        home = self.server.home
        row = {"messages": [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]}
        rows = write_rows(home / "evil.jsonl", [row] * 8)
        spec = ["train", "sft", "--model", MODEL, "--train", rows, "--eval", rows, "--name", evil, "--label", "x=" + "y"]
        job = self.server.train(*spec, "--max-steps", 2).ended()
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
        self.open_ended(job["job_id"])
        self.assertIn("<img src=x", browser.run("document.querySelector('h1').textContent"))
        self.assertIn("<img src=x", browser.run("document.querySelector('.hard').textContent"))
        self.assertEqual(browser.run("document.querySelectorAll('main img, main script').length"), 0)
        self.open()
        browser.wait("document.querySelector('tbody tr')")
        self.assertEqual(browser.run("document.querySelectorAll('main img, main script').length"), 0)
        self.assertNotEqual(browser.run("document.title"), "taken")
        self.assertEqual(browser.complaints(), [])

    def test_preferences_and_a_comparison_have_their_figures(self):
        browser = self.browser
        sft = self.sft("--max-steps", 40, name="first").ended()["job_id"]
        dpo = self.server.train("train", "dpo", "--model", MODEL, "--train", self.pairs, "--eval", self.held_out_pairs, "--init-from", sft,
                                "--name", "preferred", "--learning-rate", "0.003", "--max-steps", 40, "--eval-every", 10)
        self.assertEqual(dpo.ended()["state"], "JOB_STATE_SUCCEEDED")
        self.open_ended(dpo.job_id)
        text = browser.text()
        for words in ["Margin of rewards", "Accuracy of preference", "held-out: from"]:
            self.assertIn(words, text)
        accessibility.check(self, browser)
        self.picture("dpo.png", height=1500)

        compare = self.server.train("compare", "base", f"sft={sft}", f"dpo={dpo.job_id}", "--data", self.held_out_pairs)
        self.assertEqual(compare.ended()["state"], "JOB_STATE_SUCCEEDED")
        self.open_ended(compare.job_id)
        browser.wait("document.querySelector('svg.interval')")
        text = browser.text()
        for words in ["Each model on the same rows", "sft against base", "dpo against base", "95% interval", "Rows that tell most"]:
            self.assertIn(words.lower(), text.lower())
        scores = next(event["scores"] for event in stored_events(self.server, compare.job_id) if "scores" in event)
        shown = browser.run("[...document.querySelectorAll('section section h3')].map((heading) => heading.textContent)")
        self.assertEqual(shown[: len(scores["differences"])], [f"{one['name']} against {one['baseline']}" for one in scores["differences"]])
        accessibility.check(self, browser)
        browser.look(width=360, height=740)
        accessibility.check(self, browser)
        browser.look()
        self.picture("compare.png", height=1300)
        self.assertEqual(browser.complaints(), [])

    def test_runs_stand_side_by_side_with_what_differs(self):
        browser = self.browser
        names = ["slow", "quick"]
        runs = [self.sft("--max-steps", steps, "--eval-every", 5, "--seed", steps, name=name).ended() for name, steps in zip(names, (20, 30))]
        self.open()
        for run in runs:
            browser.click(f"#choose-{run['job_id']}")
        browser.click(".filter button:not([disabled])")
        browser.wait("document.querySelector('h1')?.textContent === 'Runs side by side' && document.querySelector('main > div').dataset.connection === 'ended'")
        browser.wait("/quick: from [^ ]+ to [^ ]+, between .* up to step 30/.test(document.body.innerText)")
        rows = browser.run("[...document.querySelectorAll('table')].at(-1).innerText")
        self.assertIn("maxSteps\t20\t30", rows)
        self.assertIn("seed\t20\t30", rows)
        self.assertNotIn("rank", rows, "what is the same is not there")
        for run in runs:
            loss = run["result"]["eval_loss_after"]
            self.assertIn(f"{loss:.4g}", browser.run("document.querySelector('table').innerText"))
        accessibility.check(self, browser)
        self.picture("side-by-side.png", height=1000)
        browser.look(width=360, height=740)
        accessibility.check(self, browser)
        browser.look()
        self.assertEqual(browser.complaints(), [])

    def test_what_a_model_wrote_is_there(self):
        browser = self.browser
        prompts = write_rows(self.server.home / "prompts.jsonl", [{"prompt": f"What is {a} and 2?", "completion": f"{a + 2}."} for a in range(3)])
        model = self.sft("--max-steps", 1).ended()["spec"]["base_model"]["uri"]
        spec = {"display_name": "asked", "base_model": {"uri": model}, "generate": {"data": {"rows": [f"file://{prompts}"]}, "sampling": {"max_new_tokens": 8}}}
        (self.server.home / "spec.json").write_text(json.dumps(spec))
        made = json.loads(self.server.hone("--json", "jobs", "create", "--spec", self.server.home / "spec.json"))
        self.server.hone("jobs", "wait", made["job_id"])
        self.open_ended(made["job_id"])
        shown = browser.run("document.querySelector('main').innerText")
        for words in ["GENERATE", "Answers", "What is 1 and 2?", "The model wrote", "prompts.jsonl, row 3"]:
            self.assertIn(words, shown)
        accessibility.check(self, browser)
        self.assertEqual(browser.complaints(), [])

    def test_a_failure_says_where_and_what_to_try(self):
        browser = self.browser
        broken = write_rows(self.server.home / "broken.jsonl", [*sums(range(1, 3)), {"text": 7}])
        job = self.server.train("train", "sft", "--model", MODEL, "--train", broken, "--over-length", "fail", "--max-length", 8, "--name", "too long").ended()
        self.assertEqual(job["state"], "JOB_STATE_FAILED", job)
        self.open_ended(job["job_id"])
        shown = browser.run("document.querySelector('.failure').innerText")
        for words in ["invalid data", job["failure"]["message"].split("\n")[0].strip(), job["failure"]["remedy"]]:
            self.assertIn(words, shown)
        accessibility.check(self, browser)
        self.open("jobs/job-" + "0" * 32)
        self.assertEqual(browser.wait("document.querySelector('h1')?.textContent"), "Not found")

    def test_the_list_follows_and_is_walked_by_keys(self):
        browser = self.browser
        self.open()
        browser.wait("document.querySelector('h1')?.textContent === 'Jobs'")
        job = self.sft("--max-steps", 2, name="for the list").ended()
        browser.wait(f"document.querySelector('a[href=\"#/jobs/{job['job_id']}\"]')?.closest('tr').innerText.includes('succeeded')", "the list to be looked at again")
        for dark in (False, True):
            browser.look(dark=dark)
            accessibility.check(self, browser)
        self.picture("jobs-dark.png", height=700)
        browser.look(width=360, height=740)
        accessibility.check(self, browser)
        self.picture("jobs-phone.png", height=900)
        browser.look()

        # By keys alone: past the first links to the filter, on to the job, and along a chart.
        order = []
        for _ in range(12):
            browser.press("Tab")
            order.append(browser.run("document.activeElement.id || document.activeElement.getAttribute('href')"))
            if order[-1] == f"#/jobs/{job['job_id']}":
                break
        self.assertEqual(order[0], "skip", "the first stop leads past the menu")
        self.assertIn("state", order)
        self.assertEqual(order[-1], f"#/jobs/{job['job_id']}")
        self.assertNotEqual(browser.run("getComputedStyle(document.activeElement).outlineStyle"), "none", "the focus is seen")
        browser.press("Enter")
        browser.wait("document.activeElement.tagName === 'H1' && document.activeElement.textContent === 'for the list'", "the new heading to have the focus")
        browser.wait("document.querySelector('.standing .badge.succeeded') && document.querySelector('figure:not([hidden]) input[type=range]')")
        browser.run("document.querySelector('figure input[type=range]').focus()")
        browser.press("End")
        browser.wait("document.querySelector('figure output').textContent.startsWith('step 2: train ')")
        browser.press("Home")
        browser.wait("document.querySelector('figure output').textContent.startsWith('step 0: held-out ')")
        self.assertEqual(browser.run("document.activeElement.getAttribute('aria-valuetext')"), browser.run("document.querySelector('figure output').textContent"))

        self.open("server")
        browser.wait("document.querySelector('h1')?.textContent === 'Server' && document.querySelector('dl')")
        accessibility.check(self, browser)
        self.assertEqual(browser.complaints(), [])


def usage(**of_device):
    return {"Event": {"resource_usage": {"host_memory_bytes": 3 << 30, "cpu_cores": 1.5, "device_memory_bytes": None, "device_utilization": None, **of_device}}}


class Fakes(unittest.TestCase):
    """What no small run comes to, told by trainers that play it."""

    def setUp(self):
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        self.browser.look()

    def job(self, *scripts):
        server = Server("--max-model-cache", "1GiB", scripts=scripts)
        self.addCleanup(server.stop)
        rows = write_rows(server.home / "rows.jsonl", sums(range(1, 2)))
        job = server.train("train", "sft", "--model", MODEL, "--train", rows, "--name", "played").ended()
        self.browser.go(f"http://{server.page}/#/jobs/{job['job_id']}")
        whole = "(({ dataset }) => dataset.connection === 'ended' && dataset.drawn === dataset.events)(document.querySelector('main > div'))"
        self.browser.wait(whole, "all events to be drawn")
        return job

    def shown(self):
        return self.browser.run("[...document.querySelectorAll('figure')].filter((one) => !one.hidden).map((one) => one.querySelector('h3').textContent)")

    def test_what_the_machine_lacks_is_absent(self):
        self.job(["Running", {"Steps": 4}, usage(), {"Steps": 2}, usage(), {"Checkpoint": {"weights_bytes": 64}}, "Succeed"])
        charts = self.shown()
        self.assertIn("Memory in use", charts)
        self.assertIn("Processor", charts)
        self.assertNotIn("Device", charts)
        legend = "[...document.querySelectorAll('figure')].find((one) => one.querySelector('h3').textContent === 'Memory in use').querySelector('.legend').innerText"
        self.assertEqual(self.browser.run(legend).split(), ["host"])

    def test_use_of_a_device_is_drawn_beside_warnings_and_a_second_attempt(self):
        warning = {"Event": {"warning": {"code": "gradient_noise", "message": "take larger steps"}}}
        device = usage(device_memory_bytes=5 << 30, device_utilization=0.75)
        first = ["Running", {"Steps": 6}, device, warning, {"Checkpoint": {"weights_bytes": 64}}, {"Steps": 3}, {"Kill": "KILL"}]
        job = self.job(first, ["Running", {"Steps": 12}, device, {"Checkpoint": {"weights_bytes": 64}}, "Succeed"])
        self.assertEqual((job["state"], job["attempt"]), ("JOB_STATE_SUCCEEDED", 2))
        charts = self.shown()
        self.assertIn("Device", charts)
        self.assertIn("share of time busy: from 75.0% to 75.0%", self.browser.text())
        self.assertIn("take larger steps", self.browser.text())
        self.assertIn("Attempt 1: trainer crashed", self.browser.text())
        self.browser.run("document.querySelector('figure details').open = true")
        steps = self.browser.wait("[...document.querySelectorAll('figure table tbody tr')].map((row) => Number(row.cells[0].innerText))")
        self.assertEqual(steps, sorted(set(steps)), "steps that are taken again stand there once")
        accessibility.check(self, self.browser)
        self.assertEqual(self.browser.complaints(), [])

    def test_a_long_run_is_drawn(self):
        job = self.job(["Running", {"Steps": 5000}, {"Checkpoint": {"weights_bytes": 64}}, "Succeed"])
        self.assertIn("up to step 5000", self.browser.text())
        self.assertEqual(self.browser.run("document.querySelector('main > div').dataset.events"), job["last_sequence"])
        self.browser.run("document.querySelector('figure details').open = true")
        self.browser.wait("document.querySelectorAll('figure table tbody tr').length > 100")
        self.assertLessEqual(self.browser.run("document.querySelectorAll('figure table tbody tr').length"), 201)
        self.assertEqual(self.browser.complaints(), [])


class Tokens(unittest.TestCase):
    """A server that asks for tokens."""

    def test_a_token_is_asked_for_kept_in_the_tab_and_sent_with_downloads(self):
        browser = Browser()
        self.addCleanup(browser.close)
        browser.look()
        folder = Path(browser.folder.name)
        made = [self.token(*who) for who in (("reader", "red", "read"), ("maker", "red", "submit"), ("other", "blue", "read"))]
        (folder / "tokens").write_text("".join(line + "\n" for _, line in made))
        server = Server("--token-file", folder / "tokens", "--allow-uri", "file:///")
        self.addCleanup(server.stop)
        [reader, maker, other] = [token for token, _ in made]
        rows = write_rows(folder / "rows.jsonl", sums(range(1, 5)))
        job = server.train("train", "sft", "--model", MODEL, "--train", rows, "--max-steps", 2, "--name", "secret sums", token=maker).ended(maker)

        def look_in(token):
            browser.wait("document.querySelector('#token')")
            browser.run("document.querySelector('#token').focus()")
            browser.type(token)
            browser.press("Enter")

        browser.go(f"http://{server.page}/")
        browser.wait("document.querySelector('label[for=token]')")
        accessibility.check(self, browser)
        look_in("hone_stranger")
        browser.wait("document.querySelector('[role=alert]')?.textContent.includes('not among those')")
        self.assertNotIn("secret sums", browser.text())
        look_in(other)
        browser.wait("document.body.innerText.includes('There is no job yet')")
        browser.click("#forget")
        look_in(reader)
        browser.wait("document.body.innerText.includes('secret sums')")
        browser.go(f"http://{server.page}/#/jobs/{job['job_id']}")
        browser.wait("document.querySelector('.files a')")
        self.assertEqual(browser.run("document.cookie"), "")
        self.assertEqual(browser.run("localStorage.length"), 0)
        self.assertNotIn(reader, json.dumps(browser.requests()), "no address holds the token")

        downloads = folder / "downloads"
        browser.session, tab = None, browser.session
        browser.order("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads), "eventsEnabled": True})
        browser.session = tab
        browser.run("document.querySelectorAll('.checkpoints details, details').forEach((one) => { one.open = true; })")
        name = "adapter_model.safetensors"
        browser.run(f"document.querySelector('.files a[download=\"{name}\"]').click()")
        browser.wait("document.querySelector('.files [role=status]').parentElement && [...document.querySelectorAll('.files [role=status]')].some((one) => one.textContent === 'done')")
        browser.until(lambda event: event["method"] == "Browser.downloadProgress" and event["params"]["state"] == "completed")
        checkpoints = json.loads(server.hone("--json", "checkpoints", "list", job["job_id"], token=maker).splitlines()[0])
        files = checkpoints.get("checkpoints", [checkpoints])[0]["files"]
        expected = next(file["sha256"] for file in files if file["name"] == name)
        self.assertEqual(hashlib.sha256((downloads / name).read_bytes()).hexdigest(), expected)

        # Taken back, it is asked for again.
        (folder / "tokens").write_text("".join(line + "\n" for _, line in made[1:]))
        browser.run("location.hash = '#/'")
        browser.wait("document.querySelector('[role=alert]')?.textContent.includes('not among those')", "the token to be asked for")

    @staticmethod
    def token(name, project, role):
        import subprocess

        from hone import BIN

        done = subprocess.run([BIN / "hone-server", "token", name, "--project", project, "--role", role], capture_output=True, text=True, check=True)
        return done.stdout.strip(), done.stderr.strip().splitlines()[-1]


if __name__ == "__main__":
    unittest.main(verbosity=2)
