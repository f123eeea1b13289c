"""The laws of pktkit's contract kit, with what the aligner promises beyond its protocol."""

from pktkit_rotate.aligner import ResistantProcrustes

from pktkit.components import Kind
from pktkit.testing import parametrize_with_checks


@parametrize_with_checks(Kind.ALIGNER, [ResistantProcrustes])
def test_contract(component, check):
    check()
