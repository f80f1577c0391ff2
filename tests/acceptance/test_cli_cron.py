"""What docs/cron.md says: its crontab line and its script, run as cron runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import COMMAND_SECONDS, Dev

PAGE = Path(__file__).parents[2].joinpath("docs/cron.md").read_text()
PROGRAMS = Path(sys.executable).parent


def block(language: str) -> str:
    """Return the page's block in that language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def job() -> str:
    """Return the crontab's command, as cron hands it to the shell: without its times, and with `\\%` as `%`."""
    line = next(line for line in block("crontab").splitlines() if line[:1].isdigit())
    command = re.split(r"\s+", line, maxsplit=5)[5]
    assert not re.search(r"(?<!\\)%", command), "cron ends the command at a bare %"
    return command.replace("\\%", "%")


def variables(dev: Dev, **changed: str) -> dict[str, str]:
    """Return cron's environment with the crontab's variables, those of this installation in place of the page's."""
    named = dict(line.split("=", 1) for line in block("crontab").splitlines() if re.match(r"[A-Z_]+=", line))
    ours = {
        "PATH": os.pathsep.join([str(PROGRAMS), *named["PATH"].split(os.pathsep)[1:]]),
        "TASKSERVER_URL": dev.url,
        "TASKSERVER_TOKEN": dev.token,
        "MAILTO": named["MAILTO"],
    }
    assert ours.keys() == named.keys()
    return {"HOME": str(dev.directory), "LOGNAME": "nobody", "SHELL": "/bin/sh", **ours, **changed}


def run_as_cron(
    command: str, env: dict[str, str], tmp_path: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command without a terminal, with this environment and nothing else."""
    return subprocess.run(
        ["/bin/sh", "-c", command, *arguments],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        start_new_session=True,
        check=False,
    )


@pytest.fixture
def closed(dev: Dev) -> dict[str, str]:
    """Return cron's environment where no server is."""
    return variables(dev, TASKSERVER_URL="http://127.0.0.1:1")


def test_the_line_run_twice_is_one_task_and_both_end_with_its_outcome(dev: Dev, tmp_path: Path) -> None:
    first = run_as_cron(job(), variables(dev), tmp_path)
    second = run_as_cron(job(), variables(dev), tmp_path)

    assert first.returncode == second.returncode == 0, first.stderr
    assert re.fullmatch(r"task \d+ SUCCESSFUL 1/1 successful\n", first.stdout)
    assert second.stdout == first.stdout


def test_the_line_ends_with_4_and_the_address_while_the_server_is_down(closed: dict[str, str], tmp_path: Path) -> None:
    ended = run_as_cron(job(), closed, tmp_path)

    assert ended.returncode == 4
    assert ended.stdout == ""
    assert "http://127.0.0.1:1" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_script_says_nothing_when_all_is_well_and_everything_otherwise(
    dev: Dev, closed: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "nightly.sh"
    script.write_text(block("sh"))
    failing = tmp_path / "failing.sh"
    failing.write_text(
        block("sh")
        .replace("builtin.echo --arg text=nightly", "builtin.fail --arg message=broken")
        .replace("nightly-$", "failing-$")
    )

    well = run_as_cron(f"sh {script}", variables(dev), tmp_path)
    failed = run_as_cron(f"sh {failing}", variables(dev), tmp_path)
    down = run_as_cron(f"sh {script}", closed, tmp_path)

    assert (well.returncode, well.stdout, well.stderr) == (0, "", "")
    assert failed.returncode == 1
    assert "broken" in failed.stdout
    assert down.returncode == 4
    assert down.stdout.startswith("nightly ended with exit code 4\n")


def test_every_exit_code_of_the_page_is_one_of_the_commands() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}

    assert codes == {0, 1, 2, 3, 4, 143}
