"""For tests of applications and of storages.

harness     an application with its jobs in memory, and a time that the test moves
cluster     real processes of a cluster, to be killed
fixtures    a pytest fixture of a harness
conformance what every storage must do, as tests
"""

from raftwork.errors import HarnessMisused, RunawayJobs
from raftwork.testing.harnesses import Harness, Mode, harness

__all__ = ["Harness", "HarnessMisused", "Mode", "RunawayJobs", "harness"]
