"""What Prometheus's own tool says of the metrics that the server shows, and of the alerts."""

import json
import os
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import manifests
from manifests import CACHE, ROOT, only, yaml

PROMTOOL = CACHE / "bin/promtool"


def promtool(*args, text=None):
    """Its exit status and what it says."""
    done = subprocess.run([PROMTOOL, *args], input=text, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip()


def page(server, folder):
    """The metrics of a server that has just started."""
    port_file = folder / "port"
    flags = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", port_file]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HONE_", "OTEL_", "AWS_"))}
    process = subprocess.Popen([server, *flags, "--data-dir", folder / "data"], env=variables, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not port_file.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://{port_file.read_text().strip()}/metrics", timeout=30) as answer:
            return answer.read().decode()
    finally:
        process.terminate()
        process.wait(60)


def check(report, binaries):
    """Metrics, rules, the rules' own tests, and a dashboard that is one."""
    with tempfile.TemporaryDirectory() as folder:
        text = page(binaries / "hone-server", Path(folder))
        status, said = promtool("check", "metrics", text=text)
        report("promtool check metrics", "# TYPE hone_jobs gauge" in text and status == 0 and not said, said)
        objects = manifests.render("otel")
        rules = Path(folder) / "rules.yaml"
        rules.write_text(yaml.safe_dump({"groups": only(objects, "PrometheusRule")["spec"]["groups"]}))
        status, said = promtool("check", "rules", str(rules))
        report("promtool check rules", status == 0, said)
        tests = Path(folder) / "tests.yaml"
        tests.write_text((ROOT / "tests/k8s/alerts.yaml").read_text())
        status, said = promtool("test", "rules", str(tests))
        report("promtool test rules", status == 0, said)
    board = next(one for one in objects if one["kind"] == "ConfigMap" and "hone.json" in one["data"])
    panels = json.loads(board["data"]["hone.json"])["panels"]
    report("the dashboard has panels with queries", len(panels) > 10 and all(panel["targets"] for panel in panels), panels)
