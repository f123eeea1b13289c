"""Named recipes of the activation-based method, and its placebos."""

from __future__ import annotations

import attrs

from pktkit.components import Choice, Strategy

PAPER = "arXiv 2510.24208"

LATENT_V1 = Strategy(
    name="latent-v1",
    # As published: even where the source's gradients are close to noise, which is warned of.
    matcher=Choice("attribution", {"fallback": "none"}),
    aligner=Choice("semantic", {"map": "unit", "interface": "contribution"}),
    injector=Choice("one-block"),
    budget={"learning_rate": 3e-4},
    summary="the published form: one critical block, cosine losses, LoRA on that block",
    reference=f"{PAPER} v1",
)

LATENT_FISHER = Strategy(
    name="latent-fisher",
    matcher=Choice("depth"),
    aligner=Choice("semantic", {"map": "unit", "interface": "contribution"}),
    injector=Choice("frontier", {"layer_term": "fisher", "output": "kl"}),
    budget={"learning_rate": 3e-4},
    summary="the published form: block after block, Fisher-weighted logits of aligned states, KL",
    reference=f"{PAPER}, Findings of ACL 2026",
)

LATENT_GEOMETRY = Strategy(
    name="latent-geometry",
    matcher=Choice("depth"),
    aligner=Choice("semantic", {"map": "unit", "interface": "contribution"}),
    injector=Choice("frontier", {"layer_term": "relation", "output": "kl"}),
    budget={"learning_rate": 3e-4},
    summary="the published form: block after block, relations among tokens of aligned states, KL",
    reference=f"{PAPER} v2",
)

LATENT_LENS = Strategy(
    name="latent-lens",
    matcher=Choice("depth"),
    aligner=Choice("semantic", {"map": "lens", "interface": "residual"}),
    injector=Choice("all-blocks", {"layer_weight": 5.0}),
    summary="residual stream of all blocks steered by the logit-lens map, with cross-entropy",
    reference="our settings, chosen on dev",
)

LATENT_RIDGE = attrs.evolve(
    LATENT_LENS,
    name="latent-ridge",
    aligner=Choice("ridge", {"interface": "residual"}),
    summary="all blocks steered by maps fitted to the two models' present states",
)

LATENT_HINT = Strategy(
    name="latent-hint",
    matcher=Choice("depth"),
    aligner=Choice("hint", {"interface": "residual"}),
    injector=Choice(
        "all-blocks", {"layer_weight": 20.0, "layer_schedule": "linear", "output": "both"}
    ),
    summary="all blocks steered through learned readouts that predict the source's states",
    reference="arXiv 1412.6550, with our settings chosen on dev",
)

_LENS = {"map": "lens", "fold_norm": True, "interface": "residual"}
_FADING = {"layer_weight": 5.0, "layer_schedule": "linear"}

LATENT = Strategy(
    name="latent",
    matcher=Choice("depth"),
    aligner=Choice("semantic", _LENS),
    injector=Choice("all-blocks", {**_FADING, "output": "both"}),
    summary="all blocks steered by the logit-lens map, fading out, beside labels and outputs",
    reference="docs/results.md: chosen on dev, confirmed on test",
)

_PLACEBO = attrs.evolve(LATENT, role="placebo", placebo_of=("latent",), reference="")

RANDOM = attrs.evolve(
    _PLACEBO,
    name="random",
    aligner=Choice("semantic", {**_LENS, "placebo": "random-map"}),
    isolates="the meaning of its map",
    summary="placebo: latent with a meaningless map of equal norm",
)

SHUFFLED = attrs.evolve(
    _PLACEBO,
    name="shuffled",
    aligner=Choice("semantic", {**_LENS, "placebo": "shuffled-items"}),
    isolates="the source's states of the item at hand",
    summary="placebo: latent with the source states of other items",
)

IDENTITY_SELF = attrs.evolve(
    _PLACEBO,
    name="identity-self",
    aligner=Choice("self", {"interface": "residual"}),
    injector=Choice("all-blocks", {**_FADING, "output": "cross-entropy"}),
    isolates="the source as a whole",
    summary="placebo: the target anchored to its own frozen states, no source",
)
