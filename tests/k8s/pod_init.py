"""First process of a pod of pod.py, in namespaces of its own: lays out the root, then becomes the container's command.

Takes one argument, JSON: root, mounts [source, target, is_read_only], root_is_read_only, command. With the word loopback
in its place it brings up a new network's loopback, and that is all.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def mount(*arguments):
    """mount(8)."""
    subprocess.run(["mount", *arguments], check=True)


def loopback_up():
    """A new network has a loopback that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def bind(source, target, is_read_only):
    """One mount of the container; its mount point is made, as container runtimes do."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    mount("--bind", source, target)
    if is_read_only:
        mount("-o", "remount,bind,ro", target)


def main():
    """Lays out the root and enters it."""
    if sys.argv[1] == "loopback":
        return loopback_up()
    pod = json.loads(sys.argv[1])
    root = pod["root"]
    mount("--bind", root, root)
    for device in ("null", "zero", "full", "random", "urandom"):
        bind(f"/dev/{device}", f"{root}/dev/{device}", False)
    for folder in ("proc", "sys"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("--rbind", "/sys", f"{root}/sys")
    for source, target, is_read_only in pod["mounts"]:
        bind(source, root + target, is_read_only)
    if pod["root_is_read_only"]:
        mount("-o", "remount,bind,ro", root)
    os.chroot(root)
    os.chdir("/")
    os.execvp(pod["command"][0], pod["command"])


if __name__ == "__main__":
    main()
