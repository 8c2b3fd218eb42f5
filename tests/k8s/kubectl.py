#!/usr/bin/env python3
"""Plays kubectl for smoke.sh: hands its command line to the cluster of smoke.py, and says what that answers.

Port forwarding it does itself, within the network of the pod, where smoke.sh runs.
"""

import json
import os
import socket
import sys
import threading


def forward(ports):
    """From the one port to the other, for ever."""
    here, there = map(int, ports.split(":"))

    def copy(source, target):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", here)) as door:
        while True:
            near = door.accept()[0]
            try:
                far = socket.create_connection(("127.0.0.1", there))
            except OSError:
                near.close()
                continue
            for ends in ((near, far), (far, near)):
                threading.Thread(target=copy, args=ends, daemon=True).start()


def main():
    """One command."""
    words = sys.argv[1:]
    if "port-forward" in words:
        forward(words[-1])
    with socket.socket(socket.AF_UNIX) as cluster:
        cluster.connect(os.environ["PLAYED_CLUSTER"])
        cluster.sendall(json.dumps({"words": words, "input": sys.stdin.read() if "-" in words else ""}).encode())
        cluster.shutdown(socket.SHUT_WR)
        answer = json.loads(b"".join(iter(lambda: cluster.recv(65536), b"")))
    sys.stdout.write(answer["said"])
    sys.exit(answer["code"])


if __name__ == "__main__":
    main()
