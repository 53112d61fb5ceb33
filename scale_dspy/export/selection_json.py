"""Drafts and votes in the portable JSON: all that a runtime without DSPy must know of them."""

from __future__ import annotations

from typing import Any

from scale_dspy.program import SCALE
from scale_dspy.stages.estimate import CAP, LAST, TYPICAL, WINDOW
from scale_dspy.stages.votes import FIRST_WAVE, SPREAD, SUREST


def describe_drafts(program: SCALE) -> dict[str, Any]:
    """How a difficulty is measured on System 1's drafts."""
    return {
        "about": [
            "Where assess is `draft`, `agreement` or `review`, and a difficulty is to be found, "
            "ask solve_1 first, with an empty `draft` and `probes` choices in the one request; "
            "where the server sends fewer, ask for the missing ones one by one. With one probe, an "
            "empty reply is asked for again, as everywhere. The draft is the first reply of the "
            "largest group of equal results, see votes.result; without any result the first reply. "
            "Where the difficulty is not above the threshold, the draft is the solution.",
            "`draft`: send `logprobs` true, and the difficulty is 1 / (1 + exp(-(bias + the sum of "
            "weight * (feature - typical)))), to `decimals` places; a feature that is not known is "
            "typical. `agreement`: the feature disagreement, to as many places; with one probe 0. "
            "`review`: ask review, and its score is the difficulty.",
        ],
        "probes": program.count_probes(),
        **program.estimate.dump_state(),
        "typical": dict(TYPICAL),
        "decimals": 6,
        "features": {
            "about": "Logarithms are natural. A token's surprise is its log-probability times -1; "
            "those that are not finite are left out. Without log-probabilities mean, window and "
            "last are not known.",
            "length": "log(1 + tokens of the draft) / log(1 + cap); cap is `max_tokens` of "
            "solve_1's body, or `cap` without one. Tokens are counted by the log-probabilities, or "
            "without them by `usage`.",
            "cut_off": "1 where the draft is cut off, else 0.",
            "unreadable": "1 where no result can be read in it, else 0.",
            "mean": "The mean surprise of all its tokens.",
            "window": "The highest mean surprise of `window_tokens` tokens in a row; of all where "
            "there are fewer.",
            "last": "The mean surprise of its last `last_tokens` tokens.",
            "disagreement": "1 - the share of the largest group of equal results among all drafts; "
            "1 without any result. Not known where there is one draft.",
            "cap": CAP,
            "window_tokens": WINDOW,
            "last_tokens": LAST,
        },
    }


def describe_votes(program: SCALE) -> dict[str, Any]:
    """How System 2's passes are drawn and counted."""
    return {
        "about": "System 2 is asked for `most` choices at most: first `first`, and then each time "
        "as many as there are, each wave as one request with `n`. A pass that is cut off is "
        "concluded, see routing.draft; with one vote an empty reply is asked for again, among "
        "several it has no result. Drawing stops where the leading result is the most frequent one "
        "with a probability above `stop`: 1 - I(v1 + 1, v2 + 1) at one half, of the two largest "
        "groups of equal results v1 and v2, I the regularised incomplete beta function. At a stop "
        "of 1 all are asked for at once. The solution is the first of the largest group, of equal "
        "ones of the one begun first; without any result the first pass.",
        "result": "The answer that `answer` reads in a reply; none in one that is cut off and has "
        "no box. Results are equal where their canonical spellings are: 2, 2.0 and $2$ are.",
        "most": program.votes,
        "stop": program.stop.value,
        "first": 1 if program.weigh else FIRST_WAVE,
        "weigh": _describe_weighing(program) if program.weigh else None,
    }


def _describe_weighing(program: SCALE) -> dict[str, Any]:
    """How votes are weighed by how likely each pass is to be wrong."""
    return {
        "about": "With more than one vote, send `logprobs` true. The doubt in a pass is what "
        "drafts.about says of a difficulty by `draft`, with these weights and this bias, of the "
        "pass before it is concluded, with the cap of its own stage. Where a wave "
        "lacks log-probabilities, the tokens that `usage` tells of it are shared out by 1 + the "
        "characters of each pass. It is kept within [surest, 1 - surest]. A group "
        "of equal results weighs the product of spread * (1 - doubt) / doubt over its passes, and "
        "a result that no pass has found 1; there are spread + 1 results. The leading result is "
        "the one that weighs most, and it is right with a probability of its weight over the sum "
        "of all weights, to `decimals` places and below 1; that is what must be above `stop`. Its "
        "first pass is the solution.",
        **program.pass_estimate.dump_state(),
        "spread": SPREAD,
        "surest": SUREST,
        "decimals": 6,
    }
