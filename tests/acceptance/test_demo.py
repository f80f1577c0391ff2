import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import run_taskserver


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an extra path beside it, on which two distributions are planted."""
    place = tmp_path_factory.mktemp("demo")
    plant(place, "planted-stays", "1.0")
    plant(place, "planted-goes", "1.0")
    return place


def plant(place: Path, name: str, version: str, code: str = "answer = 42\n") -> Path:
    module = name.replace("-", "_")
    metadata = place / "extra" / f"{module}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "RECORD").write_text(f"{module}.py,,\n{metadata.name}/METADATA,,\n{metadata.name}/RECORD,,\n")
    (place / "extra" / f"{module}.py").write_text(code)
    return metadata


def run_demo(place: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    done = run_taskserver("demo", "--path", str(place / "extra"), *options, cwd=place)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def test_the_demo_takes_stock_and_the_next_one_tells_what_changed(place: Path) -> None:
    first = run_demo(place)

    assert "SUCCESSFUL" in first.stdout
    assert "this is the first inventory" in first.stdout
    report = place / ".taskserver" / "report"
    names = {one["name"] for one in json.loads((report / "inventory.json").read_text())["distributions"]}
    assert {"planted-stays", "planted-goes", "celery", "pytest"} <= names
    assert "planted-stays" in (report / "inventory.html").read_text()
    assert not (place / ".taskserver" / "url").exists()

    for file in (place / "extra").glob("planted_goes*/*"):
        file.unlink()
    (place / "extra" / "planted_goes-1.0.dist-info").rmdir()
    (place / "extra" / "planted_stays.py").write_text("answer = 43\n")
    plant(place, "planted-comes", "2.0")
    second = json.loads(run_demo(place, "--json").stdout)

    assert second["state"] == "SUCCESSFUL"
    assert second["distributions"] == len(names)
    assert second["changes"]["added"] == ["planted-comes"]
    assert second["changes"]["removed"] == ["planted-goes"]
    assert second["changes"]["changed"] == [{"name": "planted-stays", "before": "1.0", "after": "1.0"}]
    assert second["page"] == str(report / "inventory.html")


def test_a_job_that_fails_ends_the_demo_with_1_and_says_why(place: Path) -> None:
    kept = place / ".taskserver" / "report" / "inventory.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("not an inventory")

    done = run_taskserver("demo", cwd=place)

    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert f"{kept} is not an inventory" in done.stdout
