"""What a component promises beyond its protocol.

A component's class may carry a class attribute `capabilities`. Whoever reads it, such as the
contract kit (`pktkit.testing`), takes an absent one as the default: nothing is promised, and only
the laws of the protocol hold. A promise is checked, so that a false one is a failed check.
"""

from __future__ import annotations

import attrs
from attrs import validators


@attrs.frozen
class Saving:
    """How an aligner's maps are written to a file and read back.

    Arguments:
        option: the aligner's option that names the file to write.
        reader: `"package.module:Class"` of the aligner that reads such a file.
        reader_option: the reader's option that names the file.
    """

    option: str
    reader: str = attrs.field(validator=validators.matches_re(r"[\w.]+:[\w.]+"))
    reader_option: str


@attrs.frozen
class Capabilities:
    """Promises of one component class; the defaults promise nothing.

    Arguments:
        affine: an aligner's maps commute with weighted means: `f(λx + (1−λ)y) = λf(x) + (1−λ)f(y)`.
        homogeneous: degree k of an aligner's maps, `f(c·x) = cᵏ·f(x)` for c > 0; with `affine`,
            degree 1 says linear. None promises no degree.
        rotation_equivariant: turning a model's residual stream turns aligned states that live in
            it, and changes nothing else; a matcher links the same blocks.
        vocabulary_permutation_invariant: the result does not depend on how tokens are numbered, as
            long as both models number them alike.
        item_order_invariant: the result does not depend on the order of a split's items.
        self_transfer_tolerance: largest relative error of a model aligned with itself, block by
            block; of a matcher, 0 says that it links every linked block with itself. Where
            `homogeneous` is 0, directions are compared. None promises nothing.
        monotone: from one target block to the next, a matcher's source blocks never go back.
        strength_option: an injector's option whose value 0 leaves the target as it is.
        saving: how an aligner's maps are saved and read back.
        scores_items_alone: an evaluator's score and prediction of an item depend on this item, and
            on items with the same prompt, alone, with any options; so the processes of one
            launch may score a share each, see `pktkit.running.scoring`.
        executes_code: an evaluator runs what a model wrote, so that it needs the user's
            permission, see `pktkit.permission`.
        any_pair: every pair of supported models will do. A component that asks for more says so
            in a method `check`, see `pktkit.prospect`.
        source_copies, target_copies: how many float32 copies of a model's weights a component holds
            beside the models, for estimates of memory.
        reads_depths: a matcher's map depends on the two depths alone, so that it can be told of
            models without weights.
    """

    affine: bool = False
    homogeneous: int | None = None
    rotation_equivariant: bool = False
    vocabulary_permutation_invariant: bool = False
    item_order_invariant: bool = False
    self_transfer_tolerance: float | None = attrs.field(
        default=None, validator=validators.optional(validators.ge(0))
    )
    monotone: bool = False
    strength_option: str | None = None
    saving: Saving | None = None
    scores_items_alone: bool = False
    executes_code: bool = False
    any_pair: bool = False
    source_copies: float | None = None
    target_copies: float | None = None
    reads_depths: bool = False

    def declares(self, name: str) -> bool:
        """Whether a capability is promised; 0 is a promise where it is a number."""
        value = getattr(self, name)
        return value is not None and value is not False


def capabilities_of(component: object) -> Capabilities:
    """Return what a component (its class or an instance) promises.

    Raises:
        PluginError: its attribute `capabilities` is something else.
    """
    from pktkit.errors import PluginError

    found = getattr(component, "capabilities", Capabilities())
    if not isinstance(found, Capabilities):
        raise PluginError(
            f"{component!r}: attribute 'capabilities' must be a pktkit.capabilities.Capabilities, "
            f"got {type(found).__name__}."
        )
    return found
