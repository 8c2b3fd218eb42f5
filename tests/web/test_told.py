"""What no small run comes to, told by trainers that play it."""

import unittest

import accessibility
from browser import Browser
from hone import MODEL, Server, sums, write_rows

SAVE = {"Checkpoint": {"weights_bytes": 64}}


def usage(**of_device):
    """Use of the machine, and of a device where there is one."""
    of_host = {"host_memory_bytes": 3 << 30, "cpu_cores": 1.5}
    return {
        "Event": {"resource_usage": {**of_host, "device_memory_bytes": None, "device_utilization": None, **of_device}}
    }


class Told(unittest.TestCase):
    """Pages of jobs whose trainers play a script."""

    def setUp(self):
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        self.browser.look()

    def job(self, *scripts):
        """A job that has ended, its page drawn whole; a script for each attempt."""
        server = Server(scripts=scripts)
        self.addCleanup(server.stop)
        rows = write_rows(server.home / "rows.jsonl", sums(range(1, 2)))
        job = server.train("train", "sft", "--model", MODEL, "--train", rows, "--name", "played").ended()
        self.browser.go(f"http://{server.page}/#/jobs/{job['job_id']}")
        self.browser.wait("look.isWhole()", "all events to be drawn")
        return job

    def test_what_the_machine_lacks_is_absent(self):
        self.job(["Running", {"Steps": 4}, usage(), {"Steps": 2}, usage(), SAVE, "Succeed"])
        charts = self.browser.run("look.charts()")
        self.assertIn("Memory in use", charts)
        self.assertIn("Processor", charts)
        self.assertNotIn("Device", charts)
        self.assertEqual(self.browser.run("look.legend('Memory in use')").split(), ["host"])

    def test_use_of_a_device_is_drawn_beside_warnings_and_a_second_attempt(self):
        warning = {"Event": {"warning": {"code": "gradient_noise", "message": "take larger steps"}}}
        device = usage(device_memory_bytes=5 << 30, device_utilization=0.75)
        first = ["Running", {"Steps": 6}, device, warning, SAVE, {"Steps": 3}, {"Kill": "KILL"}]
        job = self.job(first, ["Running", {"Steps": 12}, device, SAVE, "Succeed"])
        self.assertEqual((job["state"], job["attempt"]), ("JOB_STATE_SUCCEEDED", 2))
        self.assertIn("Device", self.browser.run("look.charts()"))
        text = self.browser.text()
        for words in ["share of time busy: from 75.0% to 75.0%", "take larger steps", "Attempt 1: trainer crashed"]:
            self.assertIn(words, text)
        self.browser.run("look.openTable()")
        steps = [int(row[0]) for row in self.browser.wait("look.rows().length && look.rows()")]
        self.assertEqual(steps, sorted(set(steps)), "steps that are taken again stand there once")
        accessibility.check(self, self.browser)
        self.assertEqual(self.browser.complaints(), [])

    def test_noise_and_the_turn_are_told_in_words(self):
        noise = {"step": 4, "noise_scale": 130.0, "standard_error": 20.0, "signal_share": 0.11}
        noise |= {"examples_per_step": 16, "measured_steps": 16, "advice": "most of a step's gradient is noise"}
        turn = {"step": 8, "turned_at_step": 4, "held_out_change": 0.2, "standard_error": 0.05}
        turn |= {"training_loss_then": 1.5, "training_loss_now": 0.75}
        told = [{"Event": {"gradient_noise": noise}}, {"Steps": 4}, {"Event": {"overfitting": turn}}]
        self.job(["Running", {"Steps": 4}, *told, SAVE, "Succeed"])
        text = self.browser.text()
        for words in ["130 ± 20 examples", "11.0%", "most of a step's gradient is noise", "by heart since step 4"]:
            self.assertIn(words, text)
        accessibility.check(self, self.browser)

    def test_the_standard_error_is_an_area(self):
        def evaluation(step, error):
            figures = {"loss": 2.0 - step / 10, "loss_standard_error": error, "perplexity": 7.0, "token_accuracy": 0.5}
            counts = {"examples": 4, "tokens": 40, "buckets": [], "seconds": 0.1, "best": True, "preference": None}
            return {"Event": {"evaluation": {"step": step, **figures, **counts}}}

        for error, is_there in ((0.3, True), (0.0, False)):
            self.job(
                ["Running", {"Steps": 4}, evaluation(4, error), {"Steps": 4}, evaluation(8, error), SAVE, "Succeed"]
            )
            self.assertEqual(self.browser.run("look.shaded()") > 1000, is_there, self.browser.run("look.shaded()"))

    def test_a_long_run_is_drawn(self):
        job = self.job(["Running", {"Steps": 5000}, SAVE, "Succeed"])
        self.assertIn("up to step 5000", self.browser.text())
        self.assertEqual(self.browser.run("look.number('events')"), int(job["last_sequence"]))
        self.browser.run("look.openTable()")
        rows = self.browser.wait("look.rows().length && look.rows().length")
        self.assertTrue(100 < rows <= 201, rows)
        self.assertEqual(self.browser.complaints(), [])


if __name__ == "__main__":
    unittest.main()
