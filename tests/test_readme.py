"""What the README claims is true: its commands run, and its tables are those of the code."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from starlette.testclient import TestClient

from chatstream.bench.processes import free_port
from chatstream.settings import Settings, variable
from tests.upstream import Upstream, text_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CHATSTREAM = str(Path(sys.executable).parent / "chatstream")
TOKENS = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


class Shell:
    """Runs the README's commands in a folder of their own, against a server of their own."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.port = str(free_port())
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CHATSTREAM_", "OPENAI"))}
        self.environment = kept | {
            "OPENAI_BASE_URL": upstream.openai_url,
            "OPENAI_API_KEY": "k",
            "OPENAI_MODEL": f"m!pace=30,tokens={TOKENS}",
            "CHATSTREAM_DRAIN_TIMEOUT": "0",
        }
        self.run("./run.sh &\nuntil curl -sf 127.0.0.1:8000/readyz; do sleep 0.1; done")

    def run(self, block: str) -> str:
        script = block.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        serve = f"{CHATSTREAM} serve --port {self.port} >>server.log 2>&1"
        script = script.replace("./run.sh", serve)
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (script, (self.folder / "server.log").read_text())
        return done.stdout

    def stop(self) -> None:
        subprocess.run(["bash", "-c", "kill $(cat data/lock)"], cwd=self.folder, check=True)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Upstream() as upstream:
        shell = Shell(tmp_path_factory.mktemp("readme"), upstream)
        yield shell
        shell.stop()


def deltas(frames: str) -> str:
    events = [orjson.loads(line[6:]) for line in frames.splitlines() if line.startswith("data: ")]
    return "".join(event["text"] for event in events if event["type"] == "delta")


def three_things() -> list[str]:
    return [block for block in blocks("sh") if "curl" in block]


def test_the_first_thing_is_true(shell: Shell) -> None:
    rest = shell.run(three_things()[0])
    begun = (shell.folder / "cut.txt").read_text()

    assert 0 < len(deltas(begun)) < len(text_of(TOKENS))
    assert deltas(begun) + deltas(rest) == text_of(TOKENS)
    assert '"type":"turn.completed"' in rest


def test_the_second_thing_is_true(shell: Shell) -> None:
    _, _, turn = shell.run(three_things()[1]).rpartition("}{")
    told = orjson.loads("{" + turn)

    assert told["status"] == "interrupted"
    assert text_of(TOKENS).startswith(told["text"])


def test_the_third_thing_is_true(shell: Shell) -> None:
    assert shell.run(three_things()[2]).endswith("gone\n")


def test_every_setting_is_in_the_table_with_its_default_and_its_help() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", README, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        default, said = rows.pop(variable(name)).split("| ")
        assert said == field.description
        shown = default.strip("` ").removeprefix("./")
        told = "" if field.default in (None, ()) else str(field.default)
        assert shown == told.removeprefix("./").lower() or float(shown) == field.default
    assert not rows


def test_the_sample_of_a_mounted_application_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATSTREAM_PROVIDER", "offline")
    space: dict[str, object] = {}
    exec(blocks("python")[0], space)

    with TestClient(space["app"], base_url="http://localhost") as client:  # type: ignore[arg-type]
        assert client.get("/chat/readyz").json() == {"status": "ready"}
        answer = client.post("/chat/turns", json={"message": "hello"})
        assert answer.headers["location"].startswith("/chat/turns/")
    assert (tmp_path / "chats" / "users").is_dir()


def test_what_the_readme_points_at_is_there() -> None:
    for path in re.findall(
        r"\]\((?!http)([^)#]+)\)|`((?:static|tests|chatstream)/[\w./]+)`", README
    ):
        assert (ROOT / (path[0] or path[1])).exists(), path


def test_every_test_that_the_readme_names_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", README)

    assert len(named) > 5
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
