"""A short turn of the coverage-guided fuzzer for each target; `fuzz/campaign.py` runs longer."""

import pytest
from fuzz import campaign, targets

pytestmark = pytest.mark.fuzz
SECONDS = 2


def test_every_target_has_seeds():
    assert set(campaign.TARGETS) == set(targets.TARGETS)


@pytest.mark.parametrize("target", campaign.TARGETS)
def test_nothing_is_found(target, tmp_path):
    pytest.importorskip("atheris")
    assert campaign.fuzz(target, SECONDS, tmp_path, memory_mb=0)["inputs"] > 10
