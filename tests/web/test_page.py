"""The web page in Chromium, over real runs of tiny models. `make web-test` runs it; with PICTURES set to a folder the
pictures of docs/web.md are taken on the way.
"""

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
        training = [
            *sums(range(1, 25)),
            {
                "messages": [
                    {"role": "user", "content": "Count."},
                    {"role": "assistant", "content": "one two three " * 400},
                ]
            },
        ]
        cls.rows = write_rows(home / "sums.jsonl", training)
        cls.held_out = write_rows(home / "held-out.jsonl", sums(range(25, 31)))
        cls.pairs = write_rows(home / "pairs.jsonl", pairs(range(1, 17)))
        cls.held_out_pairs = write_rows(home / "held-out-pairs.jsonl", pairs(range(25, 29)))

    def setUp(self):
        self.browser.events.clear()
        self.browser.look()

    def tearDown(self):
        outside = [
            url
            for url in self.browser.requests()
            if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:", "about:"))
        ]
        self.assertEqual(outside, [], "nothing is asked of anybody else")

    def open(self, path="", site=None):
        # The same document would go on with its old view.
        self.browser.go("about:blank")
        self.browser.go(f"http://{site or self.server.page}/#/{path}")

    def open_ended(self, job_id):
        """Opens the page of a job that has ended, and waits until all of it is drawn."""
        self.open(f"jobs/{job_id}")
        self.browser.wait("look.isWhole()", "all events to be drawn")

    def sft(self, *flags, name="sums"):
        spec = [
            "train",
            "sft",
            "--model",
            MODEL,
            "--train",
            self.rows,
            "--eval",
            self.held_out,
            "--name",
            name,
            "--max-length",
            256,
        ]
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
        browser.wait("look.connection() === 'Live'")
        self.picture("live.png", height=1000)

        network.cut()
        browser.wait("look.connection().includes('trying again')")
        seen = browser.run("look.number('sequence')")
        while int(self.server.job(run.job_id)["last_sequence"]) <= seen + 20:
            pass
        network.mend()
        browser.wait(f"look.number('sequence') > {seen}", "the stream to go on")
        job = run.ended()
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
        browser.wait("look.isWhole() && look.state() === 'succeeded'")
        taken = [browser.run(f"look.number('{name}')") for name in ("sequence", "events")]
        self.assertEqual(taken, [int(job["last_sequence"])] * 2, "each event once, none missing")

        events = stored_events(self.server, run.job_id)
        steps = [event["train_step"] for event in events if "train_step" in event]
        self.assertEqual(len(steps), 240)
        asked = [
            event["params"]["request"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
        ]
        streams = [request["headers"] for request in asked if request["url"].endswith("/events")]
        last_seen = [headers.get("last-event-id") for headers in streams]
        self.assertIsNone(last_seen[0])
        self.assertEqual(last_seen[-1], str(seen), "the second stream begins where the first broke off")

        # The drawing is for eyes; the same numbers stand in the sentence and in the table.
        browser.run("look.openTable()")
        rows = browser.wait("look.rows().length && look.rows()")
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
        for words in [
            "sums to eight",
            "LORA",
            "Held-out loss",
            "Gradient norm",
            "Learning rate",
            "Hard examples",
            "Rows read",
            "over length dropped",
            "step-000060",
            "the best",
        ]:
            self.assertIn(words.lower(), text.lower())
        self.assertGreaterEqual(len(browser.run("look.charts()")), 6)
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
        spec = [
            "train",
            "sft",
            "--model",
            MODEL,
            "--train",
            rows,
            "--eval",
            rows,
            "--name",
            evil,
            "--label",
            "x=" + "y",
        ]
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
        dpo = self.server.train(
            "train",
            "dpo",
            "--model",
            MODEL,
            "--train",
            self.pairs,
            "--eval",
            self.held_out_pairs,
            "--init-from",
            sft,
            "--name",
            "preferred",
            "--learning-rate",
            "0.003",
            "--max-steps",
            40,
            "--eval-every",
            10,
        )
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
        for words in [
            "Each model on the same rows",
            "sft against base",
            "dpo against base",
            "95% interval",
            "Rows that tell most",
        ]:
            self.assertIn(words.lower(), text.lower())
        scores = next(event["scores"] for event in stored_events(self.server, compare.job_id) if "scores" in event)
        shown = browser.run(
            "[...document.querySelectorAll('section section h3')].map((heading) => heading.textContent)"
        )
        self.assertEqual(
            shown[: len(scores["differences"])],
            [f"{one['name']} against {one['baseline']}" for one in scores["differences"]],
        )
        accessibility.check(self, browser)
        browser.look(width=360, height=740)
        accessibility.check(self, browser)
        browser.look()
        self.picture("compare.png", height=1300)
        self.assertEqual(browser.complaints(), [])

    def test_runs_stand_side_by_side_with_what_differs(self):
        browser = self.browser
        names = ["slow", "quick"]
        runs = [
            self.sft("--max-steps", steps, "--eval-every", 5, "--seed", steps, name=name).ended()
            for name, steps in zip(names, (20, 30))
        ]
        self.open()
        for run in runs:
            browser.click(f"#choose-{run['job_id']}")
        browser.click(".filter button:not([disabled])")
        browser.wait("look.heading() === 'Runs side by side'")
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
        prompts = write_rows(
            self.server.home / "prompts.jsonl",
            [{"prompt": f"What is {a} and 2?", "completion": f"{a + 2}."} for a in range(3)],
        )
        model = self.sft("--max-steps", 1).ended()["spec"]["base_model"]["uri"]
        spec = {
            "display_name": "asked",
            "base_model": {"uri": model},
            "generate": {"data": {"rows": [f"file://{prompts}"]}, "sampling": {"max_new_tokens": 8}},
        }
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
        job = self.server.train(
            "train",
            "sft",
            "--model",
            MODEL,
            "--train",
            broken,
            "--over-length",
            "fail",
            "--max-length",
            8,
            "--name",
            "too long",
        ).ended()
        self.assertEqual(job["state"], "JOB_STATE_FAILED", job)
        self.open_ended(job["job_id"])
        shown = browser.run("document.querySelector('.failure').innerText")
        for words in ["invalid data", job["failure"]["message"].split("\n")[0].strip(), job["failure"]["remedy"]]:
            self.assertIn(words, shown)
        accessibility.check(self, browser)
        self.open("jobs/job-" + "0" * 32)
        self.assertEqual(browser.wait("look.heading()"), "Not found")

    def test_the_list_follows_and_is_walked_by_keys(self):
        browser = self.browser
        self.open()
        browser.wait("look.heading() === 'Jobs'")
        job = self.sft("--max-steps", 2, name="for the list").ended()
        browser.wait(
            f"look.rowOf('{job['job_id']}')?.includes('succeeded')",
            "the list to be looked at again",
        )
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
        self.assertNotEqual(
            browser.run("getComputedStyle(document.activeElement).outlineStyle"), "none", "the focus is seen"
        )
        browser.press("Enter")
        browser.wait(
            "document.activeElement.tagName === 'H1' && document.activeElement.textContent === 'for the list'",
            "the new heading to have the focus",
        )
        browser.wait("look.isWhole() && look.charts().length > 0")
        browser.run("document.querySelector('figure input[type=range]').focus()")
        browser.press("End")
        browser.wait("look.readout().startsWith('step 2: train ')")
        browser.press("Home")
        browser.wait("look.readout().startsWith('step 0: held-out ')")
        self.assertEqual(
            browser.run("document.activeElement.getAttribute('aria-valuetext')"),
            browser.run("look.readout()"),
        )

        self.open("server")
        browser.wait("look.heading() === 'Server' && document.querySelector('dl')")
        accessibility.check(self, browser)
        self.assertEqual(browser.complaints(), [])
