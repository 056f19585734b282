"""A few rounds of `campaigns/kills.py`, which kills work at random moments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "campaigns" / "kills.py"


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="it forks and looks at process groups")
def test_killed_work_is_finished_right(tmp_path):
    figures = tmp_path / "kills.jsonl"
    jobs = [f"--job={name}" for name in ("checkpoint", "predict")]
    command = [sys.executable, CAMPAIGN, *jobs, "--rounds", "3", "--seconds", "3600"]
    done = subprocess.run([*command, "--json", figures], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in figures.read_text().splitlines()]
    assert {line["job"] for line in lines} == {"checkpoint", "predict"}
    assert sum(line["kills"] for line in lines) >= 2
