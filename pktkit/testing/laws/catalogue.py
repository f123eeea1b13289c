"""Every law on one page: its name, its sentence, where it comes from, whom it binds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from pktkit.components import Kind
from pktkit.converters import as_tuple

LAWS_VERSION = 2
"""Raised when a law is added, or when what one demands becomes stricter."""

_MATCHER, _ALIGNER = Kind.MATCHER, Kind.ALIGNER
_INJECTOR, _EVALUATOR, _STRATEGY = Kind.INJECTOR, Kind.EVALUATOR, Kind.STRATEGY
_PROTOCOLS = "pktkit/protocols.py"
_JOURNAL = "docs/architecture.md, The journal"
_POSITIONS = "docs/architecture.md, Positions"
_SELF = "docs/contract-kit.md, Self-transfer"


@attrs.frozen
class Law:
    """One law of the kit.

    Arguments:
        name: stable; what `expected_failures` and reports call it.
        sentence: what it demands, in one sentence.
        reference: where the demand comes from.
        kinds: the kinds of component it binds.
        needs: the field of `Capabilities` that must be declared for it to bind; empty if it
            always does.
    """

    name: str
    sentence: str
    reference: str
    kinds: tuple[Kind, ...] = attrs.field(converter=as_tuple)
    needs: str = ""


_ALL = (
    Law(
        "options-round-trip",
        "Options written as YAML and read back are the options, and every one is documented.",
        "pktkit/options.py",
        (_MATCHER, _ALIGNER, _INJECTOR, _EVALUATOR),
    ),
    Law(
        "deterministic",
        "The same options, models, items and seed give the same bits, whatever the state of the "
        "global random generators.",
        "docs/architecture.md, Cells and workers",
        (_MATCHER, _ALIGNER, _INJECTOR, _EVALUATOR, _STRATEGY),
    ),
    Law(
        "source-unchanged",
        "The source model is bit for bit what it was.",
        _PROTOCOLS,
        (_MATCHER, _ALIGNER, _INJECTOR, _STRATEGY),
    ),
    Law(
        "target-unchanged",
        "Nothing but an injector changes the target: parameters, buffers, flags, hooks and mode.",
        _PROTOCOLS,
        (_MATCHER, _ALIGNER, _EVALUATOR),
    ),
    Law(
        "serialisable",
        "What goes into the report is JSON without NaN or infinity.",
        "pktkit/values.py",
        (_MATCHER, _ALIGNER, _INJECTOR, _EVALUATOR, _STRATEGY),
    ),
    Law(
        "degenerate-data",
        "On one-token answers, equal items and a source that says nothing, the result is finite, "
        "or is refused with a PktkitError.",
        "CONTRIBUTING.md, Errors are part of the interface",
        (_MATCHER, _ALIGNER, _INJECTOR, _EVALUATOR),
    ),
    Law(
        "padding",
        "The result does not depend on how many items are read at a time, hence on padding.",
        _POSITIONS,
        (_MATCHER, _ALIGNER, _EVALUATOR),
    ),
    Law(
        "item-order",
        "The result does not depend on the order of a split's items.",
        _POSITIONS,
        (_MATCHER, _ALIGNER),
        needs="item_order_invariant",
    ),
    Law(
        "vocabulary-permutation",
        "Numbering the tokens of both models in another way changes nothing but the order of "
        "vocabulary rows.",
        "arXiv 2510.24208, vocabulary-defined semantics",
        (_MATCHER, _ALIGNER),
        needs="vocabulary_permutation_invariant",
    ),
    Law(
        "rotation-equivariant",
        "Turning the residual streams of both models turns aligned states with the space they "
        "live in, and leaves links as they are.",
        "arXiv 1905.00414, section 2",
        (_MATCHER, _ALIGNER),
        needs="rotation_equivariant",
    ),
    Law(
        "self-transfer",
        "A model matched and aligned with itself keeps its blocks and states, within the declared "
        "tolerance.",
        _SELF,
        (_MATCHER, _ALIGNER),
        needs="self_transfer_tolerance",
    ),
    Law(
        "in-range",
        "A layer map is one of this pair: both depths, at least one link, weights that are not "
        "negative and sum to 1.",
        "pktkit/values.py, LayerMap",
        (_MATCHER,),
    ),
    Law(
        "monotone",
        "From one target block to the next, neither the shallowest nor the deepest source block "
        "goes back.",
        "arXiv 2510.24208, layer pairing",
        (_MATCHER,),
        needs="monotone",
    ),
    Law(
        "shapes",
        "Maps exist for linked blocks only and lead to the width of their space; updates name "
        "parts of the target and fit them.",
        "pktkit/values.py, Alignment",
        (_ALIGNER,),
    ),
    Law(
        "dtype-device",
        "Mapped states keep the dtype and device of what is mapped; the target's parameters keep "
        "theirs, in single and in bfloat16 precision.",
        "pktkit/values.py, StateMap",
        (_ALIGNER, _INJECTOR),
    ),
    Law(
        "finite",
        "States of any size, zero and constant ones included, are mapped to finite states; "
        "parameters stay finite.",
        "pktkit/values.py, StateMap",
        (_ALIGNER, _INJECTOR),
    ),
    Law(
        "token-wise",
        "A token's mapped state does not depend on which tokens are beside it, nor on their order.",
        _POSITIONS,
        (_ALIGNER,),
    ),
    Law(
        "affine",
        "Maps commute with weighted means of states.",
        "pktkit/capabilities.py",
        (_ALIGNER,),
        needs="affine",
    ),
    Law(
        "homogeneous",
        "Scaling a state by c > 0 scales its image by c to the declared degree.",
        "pktkit/capabilities.py",
        (_ALIGNER,),
        needs="homogeneous",
    ),
    Law(
        "saved-maps",
        "Maps read back from the file they were saved to are the same, bit for bit.",
        "docs/methods/aligners.md, map files",
        (_ALIGNER,),
        needs="saving",
    ),
    Law(
        "journalled",
        "Every change is in the journal, and the module tree (types, hooks, flags, mode) is as "
        "before.",
        _JOURNAL,
        (_INJECTOR, _STRATEGY),
    ),
    Law(
        "rollback",
        "After a rollback the target has the bits it had.",
        _JOURNAL,
        (_INJECTOR, _STRATEGY),
    ),
    Law(
        "strength-zero",
        "With strength 0 the target keeps its bits.",
        "pktkit/capabilities.py",
        (_INJECTOR,),
        needs="strength_option",
    ),
    Law(
        "empty-alignment",
        "An alignment with nothing in it is refused with a PktkitError that leaves the target as "
        "it was, or is not needed.",
        "CONTRIBUTING.md, Errors are part of the interface",
        (_INJECTOR,),
    ),
    Law(
        "within-budget",
        "Not more optimiser steps are reported than the budget has, and no negative number.",
        "docs/architecture.md, Choices that differ from what one might expect",
        (_INJECTOR,),
    ),
    Law(
        "only-its-rows",
        "Training rows that the run was not given have no influence.",
        "pktkit/training/loop.py, TransferData",
        (_INJECTOR,),
    ),
    Law(
        "save-load",
        "The changed target, saved and loaded, has the same parameters and says the same.",
        "pktkit/pair.py, save_model",
        (_INJECTOR, _STRATEGY),
    ),
    Law(
        "one-score-per-item",
        "There is one score per item of the split, in the split's order.",
        _PROTOCOLS,
        (_EVALUATOR,),
    ),
    Law(
        "bounded-scores",
        "Scores are numbers from 0 to 1.",
        "pktkit/outcomes.py, ItemScore",
        (_EVALUATOR,),
    ),
    Law(
        "scores-follow-items",
        "Items in another order keep their scores.",
        _POSITIONS,
        (_EVALUATOR,),
    ),
    Law(
        "items-alone",
        "Parts of a split, scored each for itself, have the scores and predictions of the whole.",
        "pktkit/running/scoring.py",
        (_EVALUATOR,),
        needs="scores_items_alone",
    ),
    Law(
        "well-formed",
        "Every stage names a registered component with options it has, and the budget fits.",
        "pktkit/components.py, Strategy",
        (_STRATEGY,),
    ),
    Law(
        "recipe-round-trip",
        "Written as a recipe and read back, it is the same strategy.",
        "pktkit/recipe.py",
        (_STRATEGY,),
    ),
)

LAWS: Mapping[str, Law] = MappingProxyType({law.name: law for law in _ALL})
"""All laws by name."""
