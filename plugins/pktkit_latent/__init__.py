"""Activation-based transfer: latent semantic alignment (SemAlign) and its placebos."""

from __future__ import annotations

from pktkit.components import Component
from pktkit.hookspecs import hookimpl

_PAPER = "arXiv 2510.24208"


@hookimpl
def pktkit_layer_matchers() -> list[Component]:
    """Register matching by depth, attribution, affinity and Fisher information."""
    return [
        Component(
            "depth",
            "pktkit_latent.matchers:DepthMatcher",
            "every target block with the source block at its relative depth",
            f"{_PAPER}, layer pairing",
        ),
        Component(
            "attribution",
            "pktkit_latent.matchers:AttributionMatcher",
            "the source's critical layer by gradient × activation",
            f"{_PAPER}, layer attribution",
        ),
        Component(
            "interpolated",
            "pktkit_latent.matchers:InterpolatedMatcher",
            "every target block with the two source blocks around its relative depth",
            f"{_PAPER} v1, interpolated supervisory state",
        ),
        Component(
            "affinity",
            "pktkit_latent.matchers:AffinityMatcher",
            "one source block per target block, monotone, most alike in sum by CKA",
            "CKA: arXiv 1905.00414, over minibatches: arXiv 2010.15327",
        ),
        Component(
            "fisher",
            "pktkit_latent.matchers:FisherMatcher",
            "the source blocks whose outputs carry most Fisher information, in order",
        ),
    ]


@hookimpl
def pktkit_latent_aligners() -> list[Component]:
    """Register aligners by vocabulary, by fit, by hint and by relation, and the self anchor."""
    aligners = "pktkit_latent.aligners"
    return [
        Component(
            "semantic",
            f"{aligners}.semantic:SemanticAligner",
            "one matrix from the two LM heads: unit, tight, dual or lens",
            f"{_PAPER}, vocabulary-defined semantics",
        ),
        Component(
            "ridge",
            f"{aligners}.ridge:RidgeAligner",
            "affine least squares per block, with a relative penalty",
        ),
        Component(
            "procrustes",
            f"{aligners}.procrustes:ProcrustesAligner",
            "a centred rotation per block, for unequal widths semi-orthogonal",
            "Schönemann 1966",
        ),
        Component(
            "cca",
            f"{aligners}.cca:CcaAligner",
            "regression through canonical directions per block (CCA, SVCCA)",
            "arXiv 1706.05806",
        ),
        Component(
            "hint",
            f"{aligners}.hint:HintAligner",
            "source states as they are, with a learned readout of the target per block",
            "arXiv 1412.6550",
        ),
        Component(
            "relation",
            f"{aligners}.relation:RelationAligner",
            "source states as they are, for layer terms that compare relations among tokens",
        ),
        Component(
            "map-file",
            f"{aligners}.map_file:MapFileAligner",
            "maps that an aligner wrote with its option 'save'",
        ),
        Component(
            "self",
            f"{aligners}.self_anchor:SelfAnchor",
            "placebo: the target's own frozen states",
        ),
    ]


@hookimpl
def pktkit_knowledge_injectors() -> list[Component]:
    """Register the steering injectors."""
    return [
        Component(
            "one-block",
            "pktkit_latent.injectors:OneBlockInjector",
            "trains one block towards aligned states, cosine losses as published",
            f"{_PAPER} v1",
        ),
        Component(
            "frontier",
            "pktkit_latent.injectors:FrontierInjector",
            "trains one block after another, shallow to deep, with a layer term and KL",
            _PAPER,
        ),
        Component(
            "all-blocks",
            "pktkit_latent.injectors:AllBlocksInjector",
            "trains the whole target with a layer term at every linked block",
        ),
    ]


@hookimpl
def pktkit_strategies() -> list[Component]:
    """Register the recipes and their placebos."""
    return [
        _strategy("latent", "LATENT", "all blocks, by the logit-lens map, fading out; with KL"),
        _strategy("latent-v1", "LATENT_V1", "as published: one block, cosine losses, LoRA", _PAPER),
        _strategy(
            "latent-fisher",
            "LATENT_FISHER",
            "as published: frontier, Fisher-weighted logits, KL",
            f"{_PAPER}, Findings of ACL 2026",
        ),
        _strategy(
            "latent-geometry",
            "LATENT_GEOMETRY",
            "as published: frontier, relations among tokens, KL",
            f"{_PAPER} v2",
        ),
        _strategy("latent-lens", "LATENT_LENS", "all blocks, by the logit-lens map"),
        _strategy(
            "latent-hint", "LATENT_HINT", "all blocks, through learned readouts", "arXiv 1412.6550"
        ),
        _strategy("latent-ridge", "LATENT_RIDGE", "all blocks, by maps fitted to present states"),
        _strategy("random", "RANDOM", "placebo: latent with a meaningless map of equal norm"),
        _strategy("shuffled", "SHUFFLED", "placebo: latent with another item's source states"),
        _strategy("identity-self", "IDENTITY_SELF", "placebo: anchored to its own frozen states"),
    ]


@hookimpl
def pktkit_analyses() -> list[Component]:
    """Register the pictures of the activation-based method."""
    return [
        _analysis(
            "decompose",
            "Decompose",
            "cosine between states and their recomposition from either vocabulary basis",
            f"{_PAPER}, figure 2",
        ),
        _analysis(
            "cka",
            "Cka",
            "layer × layer similarity of source and target, before and after a transfer",
            f"{_PAPER}, figures 4 to 6",
        ),
        _analysis(
            "alignment",
            "AlignmentQuality",
            "held-out cosine of mapped source states and the target's own, every map side by side",
        ),
        _analysis(
            "attribution",
            "Attribution",
            "gradient × activation of the source's blocks with resample intervals",
            f"{_PAPER}, layer attribution",
        ),
    ]


def _analysis(name: str, cls: str, summary: str, reference: str = "") -> Component:
    return Component(name, f"pktkit_latent.analyses.{name}:{cls}", summary, reference)


def _strategy(name: str, attribute: str, summary: str, reference: str = "") -> Component:
    return Component(name, f"pktkit_latent.strategies:{attribute}", summary, reference)
