"""Aligners that give target states: by vocabulary, fitted to states, learned, or basis-free."""

from pktkit_latent.aligners.cca import CcaAligner, CcaOptions
from pktkit_latent.aligners.fitting import FittedOptions
from pktkit_latent.aligners.hint import HintAligner, HintOptions
from pktkit_latent.aligners.map_file import MapFileAligner, MapFileOptions
from pktkit_latent.aligners.procrustes import ProcrustesAligner, ProcrustesOptions
from pktkit_latent.aligners.relation import RelationAligner, RelationOptions
from pktkit_latent.aligners.ridge import RidgeAligner, RidgeOptions
from pktkit_latent.aligners.self_anchor import SelfAnchor, SelfOptions
from pktkit_latent.aligners.semantic import SemanticAligner, SemanticOptions

__all__ = [
    "CcaAligner",
    "CcaOptions",
    "FittedOptions",
    "HintAligner",
    "HintOptions",
    "MapFileAligner",
    "MapFileOptions",
    "ProcrustesAligner",
    "ProcrustesOptions",
    "RelationAligner",
    "RelationOptions",
    "RidgeAligner",
    "RidgeOptions",
    "SelfAnchor",
    "SelfOptions",
    "SemanticAligner",
    "SemanticOptions",
]
