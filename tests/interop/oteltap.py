"""oteltap, which receives OTLP over HTTP and prints what it decoded, one JSON object a line; and the way to it for who speaks
gRPC: the messages are the same bytes.

As a program (`oteltap.py PORT`) it is the receiver, until its standard input ends. Only oteltap's core is used, which decodes
with protos of its own, in Rust.
"""

import concurrent.futures
import contextlib
import importlib.util
import json
import pathlib
import queue
import socket
import subprocess
import sys
import threading
import urllib.request

CORE = pathlib.Path(__file__).resolve().parents[2] / ".cache/oteltap/oteltap/oteltap_core.py"
SIGNALS = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
}


def receive(port):
    """Prints what comes."""
    spec = importlib.util.spec_from_file_location("oteltap_core", CORE)
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    flags = core.OtelTapFlags.PRINT_TRACES_AS_NDJSON | core.OtelTapFlags.PRINT_METRICS_AS_NDJSON
    status, handle = core.OtelTapCore.oteltap_start_receiving_http_protobuf(port, flags, None, None, None)
    if status < 0:
        sys.exit(f"oteltap does not start: {status}")
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.read()
    core.OtelTapCore.oteltap_stop_receiving(handle)


def relay(port):
    """A gRPC server that hands the bytes of every export to oteltap; gives it and its port."""
    import grpc

    class Handler(grpc.GenericRpcHandler):
        """Knows both exports."""

        def service(self, details):
            signal = SIGNALS.get(details.method)
            return signal and grpc.unary_unary_rpc_method_handler(lambda message, _context: self.hand_on(signal, message))

        def hand_on(self, signal, message):
            """What oteltap does not take is an error of the export."""
            url = f"http://127.0.0.1:{port}/v1/{signal}"
            headers = {"Content-Type": "application/x-protobuf"}
            with urllib.request.urlopen(urllib.request.Request(url, data=message, headers=headers), timeout=10):
                return b""

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[Handler()])
    own = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, own


@contextlib.contextmanager
def running():
    """Yields the URL for exporters, and a function that waits for what oteltap decoded: a predicate of all of it so far."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tap = subprocess.Popen(
        [sys.executable, __file__, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tap.stderr.readline() == "ready\n"
    lines, decoded = queue.Queue(), []
    threading.Thread(target=lambda: [lines.put(json.loads(line)) for line in tap.stdout], daemon=True).start()
    server, own = relay(port)

    def until(is_all):
        while not is_all(decoded):
            decoded.append(lines.get(timeout=60))
        return decoded

    try:
        yield f"http://127.0.0.1:{own}", until
    finally:
        server.stop(None)
        tap.stdin.close()
        tap.wait(60)


if __name__ == "__main__":
    receive(int(sys.argv[1]))
