"""Words that mark a reflection: our default and the lists that others count.

One phrase is as good as another here: where it counts is decided in `rewards.reflection`. A trailing `*`
is a stem ("re-evaluat*" is "re-evaluate", "re-evaluating" and so on).
"""

from __future__ import annotations

# Markers that only count where they open a clause: "Wait, 6 x 7" does, "they wait 6 hours" does not.
HESITATIONS = frozenset(
    ("wait", "but wait", "wait no", "hmm", "hold on", "actually", "but", "yet", "however", "alternatively")
)

_LISTS = {
    "default": """
        wait; hmm; hold on; actually; check:; sanity check; quick check; cross-check; let me
        confirm; to confirm; recompute; re-compute; recalculate; recalculating; let me redo; on
        second thought; i made a mistake; that's wrong; that is wrong; that's not right; that is not
        right; let me check; let me re-check; let me recheck; let me verify;
        let me reconsider; let me think again; let me try again; let's check; let's verify;
        re-check; recheck; rechecking; double check; double-check; double-checking; re-examine;
        reexamine; re-evaluate; reevaluate; rethink; reconsider; check again; think again; try
        again; verify; verifying; to check; checking""",
    # sail-sg/understand-r1-zero, analysis/keyword_count.py
    "oat": """
        recheck; rethink; reassess; reevaluate; re-evaluate; reevaluation; re-examine; reexamine;
        reconsider; reanalyze; double-check; check again; think again; verify again; go over the
        steps""",
    # GAIR-NLP/MAYE, log_reflection_analysis; arXiv:2504.02587, section 4
    "maye": """
        re-check; re-evaluate; re-examine; re-think; recheck; reevaluate; reexamine; reevaluation;
        rethink; check again; think again; try again; verify; wait; yet""",
    # hkust-nlp/simpleRL-reason, collect_results.py
    "simplerl_zoo": "recheck; rethink; try again; wait; alternatively; retry; however",
    # hexuandeng/REA-RL, sft_data.py
    "rea_rl": "wait; alternatively; check; but",
    # zpqiu's R1 evaluation
    "r1_evaluation": """
        reevaluate; reevaluation; recheck; rethink; check again; re-evaluate; try again; re-examine""",
    # hidden-state probing of R1's distilled models
    "r1_probing": """
        wait; re-check; recheck; rethink; re-think; reconsider; re-consider; re-evaluat*;
        reevaluat*; re-examine; reexamine; check again; try again; think again; consider again;
        evaluate again; examine again""",
}

PRESETS: dict[str, tuple[str, ...]] = {
    name: tuple(" ".join(phrase.split()) for phrase in phrases.split(";")) for name, phrases in _LISTS.items()
}
