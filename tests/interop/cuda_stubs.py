"""Makes stand-ins for the CUDA libraries that torch's wheel links against but never calls on a CPU.

The wheel on the package index is the CUDA build: `import torch` loads libtorch_cuda.so, which names a dozen NVIDIA
libraries (about 4 GB of wheels). On a machine without a GPU none of their functions is ever called, the loader only wants
the names to exist. This script compiles, for every library that cannot be found, a shared object of a few kilobytes with
those names; each function traps if it is called after all.

Takes the `torch/lib` folder; writes the stand-ins into it. Needs `cc`, `nm`, `readelf` (all come with gcc or g++).
"""

import argparse
import collections
import pathlib
import re
import subprocess
import tempfile

NVIDIA_PREFIXES = ("libcu", "libnv", "libnccl")


def run(*command):
    """Runs a command and returns what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed_libraries(library):
    """Names of the NVIDIA libraries that the dynamic loader will look for."""
    names = re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-dW", library))
    return [name for name in names if name.startswith(NVIDIA_PREFIXES)]


def version_owners(library):
    """Maps each symbol version that `library` asks for to the file it asks it from."""
    owners, owner = {}, None
    for line in run("readelf", "-VW", library).splitlines():
        if found := re.search(r"File: (\S+)\s+Cnt:", line):
            owner = found.group(1)
        elif found := re.search(r"Name: (\S+)\s+Flags:.*Version:", line):
            owners[found.group(1)] = owner
    return owners


def undefined_symbols(library):
    """Yields (symbol, version or None) for the symbols that `library` expects from elsewhere."""
    for line in run("nm", "-D", "--undefined-only", library).splitlines():
        if found := re.fullmatch(r"\s+U ([^@\s]+)(?:@(\S+))?", line):
            yield found.groups()


def owner_by_prefix(symbol, libraries):
    """The library that an unversioned symbol belongs to, by NVIDIA's naming: libnccl.so.2 has ncclSend. None if none."""
    fits = [name for name in libraries if symbol.lower().startswith(name[3:].split(".")[0].lower())]
    return max(fits, key=len, default=None)


def compile_stub(path, symbols_by_version):
    """Compiles a shared object that defines the given functions under the given versions."""
    functions = {symbol for symbols in symbols_by_version.values() for symbol in symbols}
    source = "".join(f"void {symbol}(void) {{ __builtin_trap(); }}\n" for symbol in sorted(functions))
    versions = "".join(
        f"{version} {{ global: {' '.join(f'{symbol};' for symbol in sorted(symbols))} }};\n"
        for version, symbols in symbols_by_version.items()
        if version
    )
    with tempfile.TemporaryDirectory() as folder:
        code, script = pathlib.Path(folder, "stub.c"), pathlib.Path(folder, "stub.map")
        code.write_text(source)
        script.write_text(versions)
        flags = [f"-Wl,--version-script={script}"] if versions else []
        run("cc", "-shared", "-fPIC", "-nostdlib", "-w", f"-Wl,-soname,{path.name}", *flags, "-o", path, code)


def main():
    """Finds what is missing and makes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch_lib", type=pathlib.Path, help="the torch/lib folder of the environment")
    torch_lib = parser.parse_args().torch_lib.resolve()

    installed = {file.name for file in torch_lib.glob("*.so*")}
    installed |= {file.name for file in torch_lib.parent.parent.glob("nvidia/*/lib/*.so*")}
    stubs = collections.defaultdict(lambda: collections.defaultdict(set))
    for library in sorted(torch_lib.glob("libtorch*.so")):
        owners = version_owners(library)
        for name in needed_libraries(library):
            if name not in installed:
                stubs[name]
        for symbol, version in undefined_symbols(library):
            owner = owners.get(version) if version else owner_by_prefix(symbol, stubs)
            if owner in stubs:
                stubs[owner][version].add(symbol)

    for name, symbols_by_version in sorted(stubs.items()):
        compile_stub(torch_lib / name, symbols_by_version)
        print(f"{name}: {sum(map(len, symbols_by_version.values()))} functions")


if __name__ == "__main__":
    main()
