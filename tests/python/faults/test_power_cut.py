"""D1: the power of a real file system is cut under load, and every acknowledged job is found again."""

from pathlib import Path

import pytest

from faults.filesystem import faulty_filesystem
from faults.processes import Load, lost

CUTS = 26

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_no_acknowledged_job_is_lost_when_the_power_is_cut(kind: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    acknowledged: dict[int, str] = {}
    with faulty_filesystem(kind, tmp_path) as system:
        storage = system.root / "jobs"
        for cut in range(CUTS):
            load = Load(storage, ledger, first=cut * 1_000_000)
            # A different number each time, so that the cut falls into start-up, steady load and rotation alike.
            load.wait_for_acknowledged(1 + (cut * 37) % 400)
            load.stop()
            system.shutdown()
            load.kill()
            acknowledged |= load.acknowledged
            system.restore()
            if cut % 5 == 4 or cut == CUTS - 1:
                assert lost(storage, ledger, acknowledged.values()) == "lost 0", f"after cut {cut + 1}"
    assert len(acknowledged) > CUTS
