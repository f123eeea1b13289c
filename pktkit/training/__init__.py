"""How a target trains: one loop for every strategy, its losses, and what may move meanwhile."""

from pktkit.training.loop import Auxiliary, TrainingLog, TransferData, train

__all__ = ["Auxiliary", "TrainingLog", "TransferData", "train"]
