"""The README's provider of one's own is one: its code and its commands run as they stand."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from chatstream.bench.processes import free_port
from tests.test_readme import CHATSTREAM, README

SECTION = "A provider of your own"


def block(language: str) -> str:
    """Return the section's only block of a language."""
    _, _, rest = README.partition(f"\n## {SECTION}\n")
    (found,) = re.findall(rf"```{language}\n(.*?)```", rest.partition("\n## ")[0], re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, str]]:
    """Run the section; yields a client of the server that it starts, and what its commands say."""
    folder, port = tmp_path_factory.mktemp("provider"), free_port()
    code = block("python")
    name = re.match(r"# (\w+\.py)\n", code)
    assert name is not None and f"`{name[1]}`" in README
    (folder / name[1]).write_text(code)
    script = block("sh").replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    serve = f"{CHATSTREAM} serve --port {port} --no-model >>server.log 2>&1"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CHATSTREAM_", "PYTHONPATH"))}
    kept |= {"CHATSTREAM_DRAIN_TIMEOUT": "0", "CHATSTREAM_RETRIES": "0"}
    try:
        done = subprocess.run(
            ["bash", "-euc", script.replace("./run.sh", serve)],
            cwd=folder,
            env=kept,
            stdout=subprocess.PIPE,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, (folder / "server.log").read_text()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client, done.stdout
    finally:
        stop(folder)


def stop(folder: Path) -> None:
    if (lock := folder / "data" / "lock").exists():
        subprocess.run(["kill", lock.read_text().strip()], check=True)


def test_it_is_about_twenty_lines() -> None:
    assert len(block("python").splitlines()) <= 25


def test_it_answers(answered: tuple[httpx.Client, str]) -> None:
    _, said = answered
    answer = orjson.loads(said)

    assert (answer["reply"], answer["status"]) == ("Polly says hello ", "completed")
    assert (answer["provider"], answer["model"]) == ("parrot", "parrot-1")
    assert answer["usage"] == {"input_tokens": 3, "output_tokens": 3}


def test_it_is_listed_and_its_refusals_are_told(answered: tuple[httpx.Client, str]) -> None:
    client, _ = answered
    listed = {each["name"]: each for each in client.get("/providers").json()["providers"]}
    refused = client.post("/chat", json={"message": "crackers"})

    assert listed["parrot"]["default"] and listed["parrot"]["models"] == ["parrot-1"]
    assert refused.status_code == 502
    assert refused.json()["detail"] == "The parrot is eating."
