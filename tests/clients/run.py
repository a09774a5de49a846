#!/usr/bin/env python3
"""`make clients`: real clients, pinned, against the real binary.

    run.py BINARY [WORD…]     only rows whose name contains one of the words

Installs what packages.json pins into target/clients (npm and pip by their ordinary ways; once, so a second run needs no
network), starts a server of its own on a free port with a temporary data directory, and lets every client list the tools,
start a process, read it, restart and stop it. Which era was reached is read off the wire (relay.py), not asked of the
client. Ends every process that it started, whatever happens. Exit code 0 if nothing failed.
"""

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import agents
from relay import Relay, connect_to, eras

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / "target" / "clients"
PINS = json.loads((HERE / "packages.json").read_text())
MODERN = "2026-07-28"
NODE = "22.23.3"
INSTALL, STEP = 600, 90  # seconds
TOOLS = ["list", "output", "ctrl"]


class Failure(Exception):
    """One row did not do what it should; the text says what."""


class Skip(Exception):
    """One row cannot be run here; the text says why."""


# Running things --------------------------------------------------------------------------------------------------------


def run(argv, env=None, cwd=None, patience=STEP, ok=(0,)):
    """Runs a command to its end; its output, stdout first. It and its children do not outlive `patience` seconds."""
    process = subprocess.Popen(
        [str(word) for word in argv], env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise Failure(f"{Path(argv[0]).name} did not end within {patience} s") from None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    if process.returncode not in ok:
        said = " / ".join((err.strip() or out.strip()).splitlines()[-6:])
        raise Failure(f"{Path(argv[0]).name} ended with {process.returncode}: {said}")
    return out, err


def install(name):
    """The directory of a pinned package, installed if it is not there yet."""
    directory = CACHE / name
    mark = directory / ".installed"
    [(manager, pin)] = PINS.get(name, {"npm": name}).items()
    content = pin if manager == "npm" else f"{pin} for Python {sys.version_info.major}.{sys.version_info.minor}"
    if mark.exists() and mark.read_text() == content:
        return directory
    print(f"installing {name}", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if manager == "pip":
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", directory]
    else:
        argv = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", directory]
    run([*argv, *pin.split()], patience=INSTALL)
    mark.write_text(content)
    return directory


def install_node():
    """Node 22 from npm, where its package exists for this machine: the suites do not run on older ones."""
    system = {"Linux": "linux", "Darwin": "darwin"}.get(platform.system(), "")
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "")
    name = f"node-{system}-{machine}"
    directory = install(f"{name}@{NODE}")
    return directory / "node_modules" / name / "bin"


def free_port(taken=()):
    """A port that nobody has, above those that systems give away by themselves, so that it stays free."""
    for step in range(4000):
        port = 61000 + (os.getpid() * 7 + step) % 4000
        try:
            if port not in taken:
                socket.create_server(("127.0.0.1", port)).close()
                return port
        except OSError:
            pass
    raise SystemExit("no free port")


# The server under test -------------------------------------------------------------------------------------------------


class Server:
    """`persistproc serve` in the foreground, with everything it prints, and a relay in front of it."""

    def __init__(self, binary):
        self.binary = binary
        self.root = Path(tempfile.mkdtemp(prefix="persistproc-clients-"))
        self.work = self.root / "work"
        self.work.mkdir()
        self.port, self.data = free_port(), self.root / "data"
        self.environment = {
            "PATH": os.pathsep.join([str(install_node()), os.environ["PATH"]]),
            "PERSISTPROC_DATA_DIR": str(self.data),
            "PERSISTPROC_PORT": str(self.port),
        }
        self.log = (self.root / "serve.txt").open("w+")
        self.process = subprocess.Popen(
            [binary, "serve"], env={**self.environment, "HOME": str(self.home())}, stdout=self.log,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        relay_port = free_port(taken=[self.port])
        self.relay_data = self.root / "relay"
        self.relay_data.mkdir()
        sockets = (directory / "server.sock" for directory in (self.data, self.relay_data))
        self.relay = Relay(self.port, relay_port, *sockets)
        self.relay_url = f"http://127.0.0.1:{relay_port}/mcp"
        self.bridge = [str(binary), "mcp", "--no-autostart", "--data-dir", str(self.relay_data)]

    def _wait(self):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                return connect_to(self.data / "server.sock").close()
            except OSError:
                time.sleep(0.02)
        raise SystemExit("the server did not come up: " + self.printed())

    def home(self):
        """A home directory that nobody has used."""
        return Path(tempfile.mkdtemp(prefix="home-", dir=self.root))

    def printed(self):
        """What `serve` said to its user."""
        self.log.flush()
        return Path(self.log.name).read_text()

    def processes(self):
        out, _ = run([self.binary, "list", "--format", "json"], env={**self.environment, "HOME": str(self.root)})
        return json.loads(out)["processes"]

    def stop(self):
        """Ends the server with its processes; lines about whatever is left."""
        ended = subprocess.run([self.binary, "shutdown"], env={**self.environment, "HOME": str(self.root)}, timeout=60,
                               stdout=subprocess.DEVNULL)
        problems = [] if ended.returncode == 0 else ["shutdown failed"]
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            problems.append("the server had to be killed")
            self.process.kill()
            self.process.wait()
        left = left_running(str(self.root))
        for pid, words in left:
            problems.append(f"left running: {pid} {words}")
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)
        return problems


def left_running(root, patience=5):
    """Processes of this run (its directory is in their words or environment) that do not end by themselves."""
    end = time.monotonic() + patience
    while True:
        left = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes()
                is_ours = root.encode() in words + (entry / "environ").read_bytes()
            except OSError:
                continue
            if words and is_ours and int(entry.name) != os.getpid():
                left.append((int(entry.name), words.replace(b"\0", b" ").decode(errors="replace")))
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


# What every client does ------------------------------------------------------------------------------------------------

MARK = "serving on port 4242"


def calls(label, work):
    """Tool, arguments, and what the answer must contain."""
    command = f"sh -c 'echo {MARK}; exec sleep 600'"
    start = {"action": "start", "command_or_label": command, "working_directory": str(work), "label": label}
    wait = {"wait_for": "serving", "timeout": 30}
    return [
        ("ctrl", {**start, **wait}, label),
        ("output", {"command_or_label": label}, MARK),
        ("ctrl", {"action": "restart", "command_or_label": label, **wait}, label),
        ("output", {"command_or_label": label, "lines": 5}, MARK),
        ("ctrl", {"action": "stop", "command_or_label": label}, label),
        ("list", {}, label),
    ]


def judge(tools, texts, wanted):
    """Every call answered one text, no error, with what it should contain; the number of calls."""
    if tools != TOOLS:
        raise Failure(f"lists the tools {tools}")
    for (name, arguments, expected), (is_error, blocks) in zip(wanted, texts, strict=True):
        if is_error or len(blocks) != 1 or expected not in blocks[0]:
            raise Failure(f"{name} {arguments.get('action', '')}: {blocks}")
    return len(texts)


def judge_server(server, label, era):
    """The process was really started and stopped, and every call spoke the expected revision."""
    states = [process["status"] for process in server.processes() if process["label"] == label]
    if not states or any(state != "terminated" for state in states):
        raise Failure(f"its process is {states}")
    reached = eras(*server.relay.take())
    if reached != {era}:
        raise Failure(f"reached {sorted(reached)} instead of {era}")


def speak_sdk(server, label, script, package, kind, mode, transport):
    wanted = calls(label, server.work)
    task = {"mode": mode, "kind": kind, "package": str(package), "calls": [call[:2] for call in wanted]}
    environment = {**server.environment, "HOME": str(server.home())}
    if transport == "http":
        task["url"] = server.relay_url
    else:
        argv = server.bridge if transport == "stdio" else transport
        task["command"] = {"argv": argv, "env": environment, "cwd": str(server.work)}
    out, _ = run([*script, json.dumps(task)], env={**environment, "PYTHONPATH": str(package)}, cwd=server.work)
    said = json.loads(out.strip().splitlines()[-1])
    return judge(said["tools"], said["texts"], wanted)


def python(version, kind, mode):
    def speak(server, label, transport):
        package = install(f"python-{version}")
        return speak_sdk(server, label, [sys.executable, HERE / "session.py"], package, kind, mode, transport)

    return speak


def typescript(name, package, kind, mode):
    def speak(server, label, transport):
        directory = install(name) / "node_modules" / package
        return speak_sdk(server, label, ["node", HERE / "session.mjs"], directory, kind, mode, transport)

    return speak


def mcp_remote(protocol):
    """A host of the old era behind mcp-remote, which brings it to the URL."""

    def speak(server, label, _):
        remote = install("mcp-remote-0.15.1") / "node_modules" / ".bin" / "mcp-remote"
        argv = ["node", str(remote), server.relay_url, "--protocol", protocol]
        return typescript("sdk-1.32.2", "@modelcontextprotocol/sdk", "old", "legacy")(server, label, argv)

    return speak


def inspector(era):
    """One process of the Inspector for each call, as its command line works."""

    def speak(server, label, transport):
        binary = install("inspector-2.12.0") / "node_modules" / ".bin" / "mcp-inspector"
        home = server.home()
        entry = {"type": "streamable-http", "url": server.relay_url}
        if transport == "stdio":
            entry = {"type": "stdio", "command": server.bridge[0], "args": server.bridge[1:], "env": {
                "PERSISTPROC_DATA_DIR": server.environment["PERSISTPROC_DATA_DIR"]}}
        config = home / "config.json"
        config.write_text(json.dumps({"mcpServers": {"s": {**entry, "protocolEra": era}}}))

        def ask(*words):
            argv = ["node", binary, "--cli", "--config", config, "--server", "s", *words]
            out, _ = run(argv, env={**server.environment, "HOME": str(home)}, cwd=server.work)
            return json.loads(out)

        tools = [tool["name"] for tool in ask("--method", "tools/list")["tools"]]
        wanted, texts = calls(label, server.work), []
        for name, arguments, _ in wanted:
            pairs = [f"--tool-arg={key}={value}" for key, value in arguments.items()]
            result = ask("--method", "tools/call", "--tool-name", name, *pairs)
            texts.append([result.get("isError", False), [block["text"] for block in result["content"]]])
        return judge(tools, texts, wanted)

    return speak


SDK = "@modelcontextprotocol/sdk"
CLIENT = "@modelcontextprotocol/client"
BOTH = ("http", "stdio")
# Client, mode, how it is done, over what, and the revision that must be reached.
SESSIONS = [
    ("Python mcp 2.3.0", "auto", python("2.3.0", "new", "auto"), BOTH, MODERN),
    ("Python mcp 2.3.0", "legacy", python("2.3.0", "new", "legacy"), BOTH, "2025-11-25"),
    ("Python mcp 2.3.0", f"pinned {MODERN}", python("2.3.0", "new", MODERN), BOTH, MODERN),
    ("Python mcp 1.9.4", "legacy", python("1.9.4", "old", "legacy"), BOTH, "2025-03-26"),
    ("TypeScript sdk 1.32.2", "legacy", typescript("sdk-1.32.2", SDK, "old", "legacy"), BOTH, "2025-11-25"),
    ("TypeScript sdk 1.10.2", "legacy", typescript("sdk-1.10.2", SDK, "old", "legacy"), BOTH, "2024-11-05"),
    ("TypeScript client 2.4.0", "legacy", typescript("client-2.4.0", CLIENT, "new", "legacy"), BOTH, "2025-11-25"),
    ("TypeScript client 2.4.0", "auto", typescript("client-2.4.0", CLIENT, "new", "auto"), BOTH, MODERN),
    ("TypeScript client 2.4.0", f"pinned {MODERN}", typescript("client-2.4.0", CLIENT, "new", MODERN), BOTH, MODERN),
    ("Inspector 2.12.0", "legacy", inspector("legacy"), BOTH, "2025-11-25"),
    ("Inspector 2.12.0", "auto", inspector("auto"), BOTH, MODERN),
    ("Inspector 2.12.0", "modern", inspector("modern"), BOTH, MODERN),
    ("mcp-remote 0.15.1", "legacy", mcp_remote("legacy"), ("http",), "2025-11-25"),
    ("mcp-remote 0.15.1", "auto", mcp_remote("auto"), ("http",), MODERN),
]


def session(number, speak, transport, era):
    def row(server):
        server.relay.take()
        label = f"client-{number}-{transport}"
        count = speak(server, label, transport)
        judge_server(server, label, era)
        return era, f"tools listed, {count} calls"

    return row


# The conformance suites ------------------------------------------------------------------------------------------------


def conformance(version, words, baseline):
    """Passed if nothing fails but what the baseline names, and all of that does: what gets better must leave it."""

    def row(server):
        server.relay.take()
        binary = install(f"conformance-{version}") / "node_modules" / ".bin" / "conformance"
        argv = ["node", binary, "server", "--url", f"http://127.0.0.1:{server.port}/mcp", *words]
        excused = 0
        if baseline:
            argv += ["--expected-failures", HERE / baseline]
            excused = len(re.findall(r"(?m)^ *- ", (HERE / baseline).read_text()))
        out, _ = run(argv, env={**server.environment, "HOME": str(server.home())}, cwd=server.home())
        totals = re.findall(r"(?m)^(?:Total|Passed): (.*\d.*)$", out)
        if not totals:
            raise Failure("it says nothing of what passed: " + out[-300:])
        return "", f"exit 0; its checks: {totals[-1]}; {excused} entries in the baseline"

    return row


SUITES = [
    ("conformance 0.1.16", "suite all", conformance("0.1.16", ["--suite", "all"], "conformance-0.1.16.yml")),
    ("conformance 0.2.0-alpha.12", "requirements 2025-11-25",
     conformance("0.2.0-alpha.12", ["--requirements", "2025-11-25"], "conformance-0.2-2025-11-25.yml")),
    ("conformance 0.2.0-alpha.12", f"requirements {MODERN}",
     conformance("0.2.0-alpha.12", ["--requirements", MODERN], "conformance-0.2-2026-07-28.yml")),
    ("conformance 0.2.0-alpha.12", "http-header-validation",
     conformance("0.2.0-alpha.12", ["--scenario", "http-header-validation", "--spec-version", MODERN], None)),
]

# Agents ----------------------------------------------------------------------------------------------------------------

# What each of the pinned ones negotiates.
ERAS = {"claude": MODERN, "codex": "2025-06-18", "gemini": "2025-06-18", "opencode": "2025-11-25"}


def agent(one, transport):
    def row(server):
        server.relay.take()
        try:
            install(one.package)
        except Failure as failure:
            raise Skip(f"{one.package} cannot be installed: {failure}") from None
        agents.speak(one, server, transport, run, install, Failure)
        reached = eras(*server.relay.take())
        if reached != {ERAS[one.command]}:
            raise Failure(f"reached {sorted(reached)} instead of {ERAS[one.command]}")
        return reached.pop(), "takes the printed command, is connected"

    return row


# All of it -------------------------------------------------------------------------------------------------------------


def rows():
    """Client, mode, transport, and a function that gives the era and what was done, or says why not."""
    for number, (client, mode, speak, transports, era) in enumerate(SESSIONS):
        for transport in transports:
            yield client, mode, transport, session(number, speak, transport, era)
    for client, mode, row in SUITES:
        yield client, mode, "http", row
    for one in agents.AGENTS:
        name, version = one.package.split("-", 1)
        for transport in BOTH:
            yield f"{name} {version}", "as printed", transport, agent(one, transport)


def attempt(row, server):
    try:
        return "passed", *row(server)
    except Skip as skip:
        return "skipped", "", str(skip)
    except Exception as failure:  # noqa: BLE001: whatever went wrong belongs into its row
        return "failed", "", f"{type(failure).__name__}: {failure}" if not isinstance(failure, Failure) else str(failure)


def main(binary, wanted):
    if not os.access(binary, os.X_OK):
        raise SystemExit(f"{binary} is not there; `make build` makes it")
    for tool in ("npm", "sh"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is needed, and not there")
    chosen = [row for row in rows() if not wanted or any(word in " ".join(row[:3]) for word in wanted)]
    server, results = Server(binary), []
    try:
        for client, mode, transport, row in chosen:
            result = attempt(row, server)
            results.append((client, mode, transport, *result))
            print(f"{result[0]:<8} {client}, {mode}, {transport}{': ' + result[2] if result[0] != 'passed' else ''}", flush=True)
    finally:
        problems = server.stop()
    print()
    header = ("client", "mode", "transport", "result", "era reached", "what was done")
    table = [header, *results]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    for row in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[5][:160]]).rstrip())
    failed = sum(result[3] == "failed" for result in results) + len(problems)
    skipped = sum(result[3] == "skipped" for result in results)
    print()
    for problem in problems:
        print(f"failed: {problem}")
    if skipped:
        print(f"{skipped} skipped")
    print(f"{sum(result[3] == 'passed' for result in results)} passed, {failed} failed")
    return 1 if failed else 0


def leave(number, _):
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, leave)
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
