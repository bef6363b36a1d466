"""What every storage must do, as tests: subclass `StorageContract` in a test module and provide the fixture `storage`.

    class TestMine(StorageContract):
        @pytest.fixture
        def storage(self):
            storage = MyStorage(...)
            yield storage
            storage.close()

One file for each family of verbs. Tests speak through `raftwork.storage.base` only. With a manual clock they move it;
with a real one they use short delays and wait to be woken, never for a time. What a storage cannot do is asked of its
`capabilities`; such tests do not apply and pass at once.

A storage that costs much to make may be shared by all tests: `making.empty` takes away what earlier ones left. Only
totals of what went through stay, so tests look at how much those grow.
"""

from raftwork.testing.conformance.claiming import ClaimContract
from raftwork.testing.conformance.enqueueing import EnqueueContract
from raftwork.testing.conformance.fetching import FetchContract
from raftwork.testing.conformance.finishing import FinishContract
from raftwork.testing.conformance.flowing import FlowContract
from raftwork.testing.conformance.limiting import LimitContract
from raftwork.testing.conformance.lines import LinesContract
from raftwork.testing.conformance.locking import LockContract
from raftwork.testing.conformance.operating import OperateContract
from raftwork.testing.conformance.querying import QueryContract
from raftwork.testing.conformance.recurring import RecurringContract
from raftwork.testing.conformance.scheduling import ScheduleContract
from raftwork.testing.conformance.sharing import ReentrantLockContract, SharedLockContract
from raftwork.testing.conformance.uniqueness import UniqueContract
from raftwork.testing.conformance.waiting import WaitContract

__all__ = ["StorageContract"]


class StorageContract(
    EnqueueContract,
    ClaimContract,
    FinishContract,
    ScheduleContract,
    UniqueContract,
    LimitContract,
    OperateContract,
    QueryContract,
    WaitContract,
    FetchContract,
    LinesContract,
    LockContract,
    SharedLockContract,
    ReentrantLockContract,
    RecurringContract,
    FlowContract,
):
    """All families."""
