"""The keys of `router`: how the load of experts is kept even."""

from __future__ import annotations

from dougong.job.section import AboveZero, Section, logical


class Router(Section):
    """How the load of the experts is kept even. By default nothing is done; a bias and one of the
    losses go together.

    A loss adds to the gradients and is reported as `balance_loss`; `loss` stays the model's own. A
    family's own auxiliary loss, of each micro-batch by itself, is on only when `model.config` says
    `output_router_logits: true`; it is then a part of `loss`, and counts the padding of chats,
    which is left out here.
    """

    bias_rate: AboveZero | None = logical(
        None,
        "after each step the router's bias rises by this for an expert with fewer tokens than the "
        "mean, and falls for one with more (DeepSeek-V3, arXiv 2412.19437: 0.001); the family "
        "must have such a bias",
    )
    computing_choices: AboveZero | None = logical(
        None,
        "with bias_rate, for families with experts that compute nothing (longcat_flash): how many "
        "of a token's choices should on average reach one that computes",
    )
    sequence_loss: AboveZero | None = logical(
        None,
        "weight of the balance loss over each sequence (DeepSeek-V3, equations 17 to 20: 0.0001); "
        "1 where even",
    )
    global_loss: AboveZero | None = logical(
        None,
        "weight of the balance loss whose counts are those of all lanes and of the step's "
        "micro-batches so far (Qwen, arXiv 2501.11873); 1 where even",
    )

    @property
    def has_loss(self) -> bool:
        """Whether a loss for the balance is added."""
        return self.sequence_loss is not None or self.global_loss is not None
