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

LATENT = Strategy(
    name="latent",
    matcher=Choice("depth"),
    aligner=Choice("semantic", {"map": "lens", "interface": "residual"}),
    injector=Choice("all-blocks"),
    summary="residual stream of all blocks steered by the logit-lens map, with cross-entropy",
    reference=f"{PAPER}, with our settings chosen on dev",
)

RANDOM = attrs.evolve(
    LATENT,
    name="random",
    aligner=Choice("semantic", {"map": "lens", "interface": "residual", "placebo": "random-map"}),
    role="placebo",
    placebo_of=("latent",),
    isolates="the meaning of its map",
    summary="placebo: latent with a meaningless map of equal norm",
    reference="",
)

SHUFFLED = attrs.evolve(
    LATENT,
    name="shuffled",
    aligner=Choice(
        "semantic", {"map": "lens", "interface": "residual", "placebo": "shuffled-items"}
    ),
    role="placebo",
    placebo_of=("latent",),
    isolates="what the source computes for the item at hand",
    summary="placebo: latent with the source states of other items",
    reference="",
)

IDENTITY_SELF = attrs.evolve(
    LATENT,
    name="identity-self",
    aligner=Choice("self", {"interface": "residual"}),
    role="placebo",
    placebo_of=("latent",),
    isolates="the source as a whole",
    summary="placebo: the target anchored to its own frozen states, no source",
    reference="",
)
