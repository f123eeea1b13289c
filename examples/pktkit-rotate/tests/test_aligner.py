"""The aligner on tiny models, beside pktkit's own."""

import attrs
import pytest
import torch
from pktkit_rotate.aligner import ResistantOptions, ResistantProcrustes

from pktkit.budget import Budget
from pktkit.components import Choice, Kind
from pktkit.errors import DoesNotFitError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.training import TransferData
from pktkit.transfer import run_transfer
from pktkit.values import LayerLink, LayerMap


@pytest.fixture
def layer_map(probe, registry):
    return registry.build(Kind.MATCHER, Choice("depth")).match(probe.pair, probe)


def aligned(probe, layer_map, **options):
    return ResistantProcrustes(ResistantOptions(**options)).align(probe.pair, layer_map, probe)


def test_without_renewals_it_is_plain_procrustes(probe, registry, layer_map):
    ours = aligned(probe, layer_map, iterations=0)
    theirs = registry.build(Kind.ALIGNER, Choice("procrustes")).align(probe.pair, layer_map, probe)
    for block in ours.target_states.blocks:
        states = torch.randn(5, probe.pair.source.anatomy.width)
        torch.testing.assert_close(
            ours.target_states.maps[block](states), theirs.target_states.maps[block](states)
        )


def test_weights_are_renewed_and_the_memory_limit_changes_nothing(probe, layer_map):
    whole = aligned(probe, layer_map)
    source, target = probe.pair.source.anatomy.width, probe.pair.target.anatomy.width
    parts = aligned(probe, layer_map, max_bytes=8 * source * (source + target))
    tokens = whole.diagnostics["tokens"]
    assert whole.diagnostics["iterations"] >= 1
    assert all(1 < count <= tokens for count in whole.diagnostics["effective_tokens"])
    for block in whole.target_states.blocks:
        # Blocks of a group stop together, so that maps differ by what a last renewal moves.
        torch.testing.assert_close(
            whole.target_states.maps[block].matrix,
            parts.target_states.maps[block].matrix,
            rtol=0,
            atol=1e-2,
        )


def test_what_cannot_be_fitted_is_refused(probe, layer_map):
    with pytest.raises(UsageError, match="Name a matcher"):
        aligned(probe, attrs.evolve(layer_map, links=()))
    with pytest.raises(UsageError, match="cutoff"):
        build_options(ResistantOptions, {"cutoff": 1}, "aligner")
    with pytest.raises(DoesNotFitError, match="max_bytes"):
        aligned(probe, layer_map, max_bytes=8)


def test_source_blocks_can_be_mixed(probe):
    anatomies = probe.pair.source.anatomy, probe.pair.target.anatomy
    mixed = LayerMap(
        [LayerLink(1, (0, 3), (0.25, 0.75))], *(a.n_blocks for a in anatomies), method="given"
    )
    [block] = aligned(probe, mixed).target_states.blocks
    assert block == 1


def test_the_recipe_runs_with_the_matcher_and_injector_of_pktkit(probe, registry):
    strategy = registry.strategy("rotated")
    with Journal(probe.pair.target) as journal:
        budget = Budget(steps=2, batch_size=4)
        data = TransferData(probe, tuple(range(8)), budget, seed=0)
        done = run_transfer(strategy, probe.pair, probe, data, journal, registry, task="words")
        assert done.alignment.method == "resistant-procrustes"
        assert journal.changed()
        journal.rollback()
