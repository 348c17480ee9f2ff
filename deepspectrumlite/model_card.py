"""The model card of a run, in Markdown.

The parts of the card are those of Mitchell et al. 2019, "Model cards for model reporting", section
4. What a program cannot know (what the model is meant for, who may be harmed) is left to the
author, and never made up.
"""

import re
import shlex
from pathlib import Path

from deepspectrumlite import __version__
from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.report_facts import (
    MEANINGS,
    TITLES,
    Facts,
    Table,
    data_table,
    group_table,
    label_table,
    limits,
    score_table,
    setting_rows,
    with_interval,
)
from deepspectrumlite.scores import quoted, quoted_over

AUTHOR_PARTS = {
    "intended-use": "TO FILL IN by the author: what the model is for, who is to use it, and what "
    "it must not be used for.",
    "factors": "TO FILL IN by the author: which speakers, places, microphones and noises the "
    "recordings stand for, and which they do not.",
    "ethics": "TO FILL IN by the author: whose recordings these are, whether they agreed, and whom "
    "a wrong answer could harm.",
    "licence": "TO FILL IN by the author: the licence of this model and of the recordings.",
}
# Every card begins with it; nobody's own file is replaced.
MARK = "<!-- Written by `deepspectrumlite report`."


def write_card(facts: Facts, path: Path, exported: Table | None = None) -> None:
    """Write the model card; what an author wrote between the marks of an earlier one is kept.

    Raises:
        DeepSpectrumLiteError: a card is there that was not written here
        OSError: the file cannot be read or written
    """
    from jinja2 import Environment, PackageLoader

    old = path.read_text(encoding="utf-8") if path.is_file() else MARK
    if not old.startswith(MARK):
        raise DeepSpectrumLiteError(
            f"{path}: not a card that `report` has written, so it is not replaced; move it away"
        )
    env = Environment(
        loader=PackageLoader("deepspectrumlite", "."),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Instead of HTML's escapes: a label must neither break a table nor become a heading or a link.
    env.filters["md"] = escape_markdown
    files = facts.scores["files"]
    text = env.get_template("model_card.md.j2").render(
        name=facts.run.resolve().name,
        version=facts.plan.get("version", __version__),
        settings=setting_rows(facts),
        labels=facts.model.labels,
        numbers=facts.output == "linear",
        command_name=shlex.quote(facts.run.resolve().name),
        author=author_parts(old),
        main=f"{TITLES[facts.metric]} {with_interval(quoted(files)[facts.metric])}",
        meaning=MEANINGS[facts.metric],
        over=quoted_over(files),
        split=facts.split,
        data=data_table(facts),
        scores=score_table(facts),
        by_label=label_table(facts),
        by_group=group_table(facts),
        exported=exported,
        limits=limits(facts),
        weights=facts.recipe.model.weights,
    )
    write_atomically(path, lambda file: file.write(text.encode()))


def author_parts(card: str) -> dict[str, str]:
    """What stands between the marks of a card, by the name of the part; else what is to fill in."""
    marks = re.compile(r"<!-- author: ([a-z-]+) -->\n(.*?)\n<!-- end -->", re.DOTALL)
    found = {name: text for name, text in marks.findall(card) if name in AUTHOR_PARTS}
    return {name: f"**{text}**" for name, text in AUTHOR_PARTS.items()} | found


def escape_markdown(text: str) -> str:
    r"""A text as Markdown shows it, in one line.

    >>> escape_markdown("a|b_c <i>")
    'a\\|b_c \\<i>'
    """
    line = " ".join(text.split())
    return re.sub(r"([\\`*<|#&~]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))", r"\\\1", line)
