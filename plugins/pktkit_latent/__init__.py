"""Activation-based transfer: latent semantic alignment (SemAlign) and its placebos."""

from __future__ import annotations

from pktkit.components import Component
from pktkit.hookspecs import hookimpl

_PAPER = "arXiv 2510.24208"


@hookimpl
def pktkit_layer_matchers() -> list[Component]:
    """Register matching by depth and by attribution."""
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
    ]


@hookimpl
def pktkit_latent_aligners() -> list[Component]:
    """Register the semantic aligner and the self anchor."""
    return [
        Component(
            "semantic",
            "pktkit_latent.aligner:SemanticAligner",
            "one matrix from the two LM heads: unit, tight, dual or lens",
            f"{_PAPER}, vocabulary-defined semantics",
        ),
        Component(
            "self",
            "pktkit_latent.aligner:SelfAnchor",
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
            "all-blocks",
            "pktkit_latent.injectors:AllBlocksInjector",
            "trains the whole target with a layer term at every linked block",
        ),
    ]


@hookimpl
def pktkit_strategies() -> list[Component]:
    """Register the recipes and their placebos."""
    return [
        _strategy("latent", "LATENT", "all blocks of the residual stream, by the logit-lens map"),
        _strategy("latent-v1", "LATENT_V1", "as published: one block, cosine losses, LoRA", _PAPER),
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
