"""Real agents on the command line: each is connected by the very command that `serve` prints, in a home directory that
nobody has used, without a login and without a way to the internet; then it says itself whether it is connected.

Only the port or the data directory in the command is changed, to that of the relay, so that the era can be read off the wire.
"""

import json
import os
import re
import selectors
import shlex
import signal
import subprocess
import time

# Every proxy that a program may believe in is a port where nobody listens.
OFFLINE = {name: "http://127.0.0.1:9" for pair in ("http_proxy", "https_proxy") for name in (pair, pair.upper())}
OFFLINE.update({"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"})
QUIET = {
    "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1", "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8",
}


class Agent:
    def __init__(self, package, command, printed, stdio, listing, connected, prepare=lambda home, work: None):
        self.package = package      # in packages.json
        self.command = command      # its program
        self.printed = printed      # its name on the page of `serve`
        self.stdio = stdio          # how it is told of a program; the words of the bridge follow
        self.listing = listing      # arguments that list its servers, or a function of environment and directory
        self.connected = connected  # what it says of one that it has reached
        self.prepare = prepare      # what a user has done before


def trust(home, work):
    """Gemini connects to nothing in a folder that its user has not called trusted."""
    (home / ".gemini").mkdir()
    (home / ".gemini" / "trustedFolders.json").write_text(json.dumps({str(work): "TRUST_FOLDER"}))


def codex_status(environment, work, patience=60):
    """`codex mcp list` only repeats its file. Its own user interfaces ask its application server, which connects."""
    process = subprocess.Popen(
        ["codex", "app-server"], env=environment, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )
    try:
        client = {"clientInfo": {"name": "clients", "title": "clients", "version": "1"}}
        for message in (
            {"id": 1, "method": "initialize", "params": client},
            {"method": "initialized"},
            {"id": 2, "method": "mcpServerStatus/list", "params": {}},
        ):
            process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        said, end = b"", time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(max(0, end - time.monotonic())):
                block = os.read(process.stdout.fileno(), 65536)
                said += block
                for line in said.split(b"\n")[:-1]:
                    answer = json.loads(line)
                    if answer.get("id") == 2:
                        return describe_codex(answer)
                if not block:
                    break
        return "it did not say"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def describe_codex(answer):
    servers = {server["name"]: sorted(server["tools"]) for server in answer.get("result", {}).get("data", [])}
    return f"persistproc has the tools {servers.get('persistproc')}"


AGENTS = [
    Agent("claude-2.1.330", "claude", "Claude Code", "claude mcp add --scope user persistproc --",
          ["mcp", "list"], r"persistproc: .*✔ Connected"),
    Agent("codex-0.169.0", "codex", "Codex CLI", "codex mcp add persistproc --",
          codex_status, r"persistproc has the tools \['ctrl', 'list', 'output'\]"),
    Agent("gemini-0.61.0", "gemini", "Gemini CLI", "gemini mcp add -s user persistproc",
          ["mcp", "list"], r"✓ persistproc: .* - Connected", trust),
    Agent("opencode-1.18.33", "opencode", "OpenCode", "opencode mcp add persistproc --",
          ["mcp", "list"], r"✓ persistproc.*connected"),
]


def printed_line(page, name, last=False):
    """What the page says behind a name."""
    lines = re.findall(rf"(?m)^  {re.escape(name)} +(.*)$", page)
    return lines[-1 if last else 0] if lines else None


def command_of(agent, transport, server):
    """The printed command, with the relay's port or data directory; None if the page does not have it."""
    page, port, relay_port = server.printed(), server.port, server.relay.own_port
    if transport == "http":
        line = printed_line(page, agent.printed)
        address = f"http://127.0.0.1:{port}/mcp"
        return line and address in line and line.replace(address, address.replace(str(port), str(relay_port)))
    line = printed_line(page, "Others", last=True)
    word = f"--data-dir={server.data}"
    return line and word in line and f"{agent.stdio} {line.replace(word, f'--data-dir={server.relay_data}')}"


def speak(agent, server, transport, run, install, failure):
    """Connects one agent, and lets it say so."""
    bin_directory = install(agent.package) / "node_modules" / ".bin"
    home = server.home()
    work = home / "work"
    work.mkdir()
    agent.prepare(home, work)
    path = os.pathsep.join([str(bin_directory), server.environment["PATH"]])
    environment = {**OFFLINE, **QUIET, "HOME": str(home), "PATH": path}
    command = command_of(agent, transport, server)
    if not command:
        raise failure("`serve` does not print its command")
    run(["sh", "-c", command], env=environment, cwd=work)
    if callable(agent.listing):
        said = agent.listing({**os.environ, **environment}, work)
    else:
        said = "".join(run([bin_directory / agent.command, *agent.listing], env=environment, cwd=work))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    if not re.search(agent.connected, plain):
        raise failure(f"after `{command}` it says: {' / '.join(plain.split())[-300:]}")
    return shlex.split(command)[0]
